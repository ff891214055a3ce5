"""The image of a linked target: removed with the last build that stands on it, unless it was somebody else's."""

from __future__ import annotations

from sampan.engine.builder.buildkit.running import LinkedImages


def test_an_image_that_was_there_before_is_never_given_up_for_removal() -> None:
    linked = LinkedImages()
    linked.use("there", made=False)
    assert not linked.give_up("there")


def test_the_last_of_several_builds_gives_it_up() -> None:
    linked = LinkedImages()
    linked.use("made", made=True)
    linked.use("made", made=False)  # the second build finds what the first has made
    assert not linked.give_up("made")
    assert linked.give_up("made")
    linked.use("made", made=False)  # it was kept by somebody
    assert not linked.give_up("made")
