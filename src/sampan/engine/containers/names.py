"""Names for containers that were given none: an adjective and a surname, `brave_lovelace`.

Also what a valid name is. Uniqueness is the registry's business, not this module's.

Source: Docker's name pattern `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Container

from sampan.errors import InvalidArgument

PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")

ADJECTIVES = (  # noqa: SIM905
    "able agile airy amber ample ardent astute balmy bold brave breezy bright brisk calm candid careful cheery"
    " civil clear clever cosy crisp curious daring deft dreamy driven eager early earnest easy elated fair fancy"
    " fearless festive fine fleet fluent fond frank fresh frosty gallant gentle gifted glad golden graceful grand"
    " happy hardy hasty hearty helpful honest hopeful humble ideal jolly jovial keen kind lively loyal lucid lucky"
    " mellow merry mighty mindful modest neat nifty nimble noble patient peaceful placid plucky polite proud prudent"
    " quick quiet rapid ready rosy serene sharp sincere sleek smart snappy sober solid spry stable steady stoic"
    " sturdy subtle sunny swift tender tidy tranquil trusty upbeat valiant vivid warm wise witty zealous zesty"
).split()

SURNAMES = (  # noqa: SIM905
    "abel agnesi ampere archimedes avogadro babbage banach bardeen bell bernoulli bessel bohr boltzmann boole bose"
    " boyle brahmagupta cantor carson cauchy cavendish celsius chandra church copernicus coulomb crick curie dalton"
    " darwin dijkstra dirac doppler edison einstein erdos euclid euler faraday fermat fermi feynman fleming fourier"
    " franklin galileo galois gauss germain goodall hadamard halley hamilton hawking heisenberg hermite hertz"
    " hilbert hodgkin hooke hopper hubble huygens hypatia jacobi jenner joule kepler khayyam kirchhoff knuth"
    " kovalevskaya lagrange lamarr laplace lavoisier leavitt leibniz linnaeus lorentz lovelace maxwell meitner"
    " mendel mendeleev milner mirzakhani napier nash newton nightingale nobel noether ohm pascal pasteur pauli peano"
    " pearson planck poincare ptolemy pythagoras raman ramanujan riemann ritchie rubin rutherford sagan shannon"
    " somerville sutherland swirles tesla thales thompson torvalds turing volta wallace watt weyl wiles wilson wing"
    " wozniak yalow"
).split()


def generate(taken: Container[str]) -> str:
    """Return a name that is not in `taken`; a digit is appended when words alone do not suffice."""
    for attempt in range(64):
        name = f"{random.choice(ADJECTIVES)}_{random.choice(SURNAMES)}"
        if attempt >= 6:
            name += str(random.randrange(10 ** (attempt // 6)))
        if name not in taken:
            return name
    raise RuntimeError("no free container name found")


def check(name: str) -> str:
    """Return the name without a leading slash. Raises: InvalidArgument in Docker's words."""
    bare = name[1:] if name.startswith("/") else name
    if not PATTERN.fullmatch(bare):
        raise InvalidArgument(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
    return bare
