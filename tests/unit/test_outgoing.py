"""Outgoing HTTP takes nothing from the environment; what is configured counts, and its passwords are not shown."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

import sampan
from sampan.api.server import shown
from sampan.daemon import config as daemon_config
from sampan.daemon import reload
from sampan.daemon.validation import ConfigError
from sampan.engine.builder.files.http import HttpDownloads
from sampan.engine.builder.ops import HttpOp
from sampan.engine.images import remote
from sampan.engine.system import _settings
from sampan.registry.endpoints import Endpoint
from sampan.registry.outgoing import DIRECT, Proxies
from sampan.registry.transport import Transport
from sampan.spec.urls import masked, without_password

SECRET = "planted-secret"


def test_sessions_are_made_in_one_place() -> None:
    """Plugins are another: they are on this machine or named in a file of its administrator's; no proxy is asked."""
    root = Path(sampan.__file__).parent
    found = [
        p for p in root.rglob("*.py") if re.search(r"aiohttp\.ClientSession\(|trust_env=True|getproxies", p.read_text())
    ]
    assert {p.relative_to(root).as_posix() for p in found} == {"registry/outgoing.py", "engine/plugins/client.py"}


async def add_url(url: str, proxies: Proxies, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir(exist_ok=True)
    downloads = HttpDownloads(str(tmp_path / "http"), str(tmp_path / "scratch"), proxies)
    await downloads.fetch(HttpOp(url=url))
    await downloads.close()


async def import_url(url: str, proxies: Proxies, _: Path) -> None:
    assert [chunk async for chunk in remote.download(url, proxies)] == [b"hello"]


async def ask_registry(url: str, proxies: Proxies, _: Path) -> None:
    transport = Transport((), proxies)
    async with transport.request("GET", url, Endpoint(base=url, path="", insecure=True)) as answer:
        assert await answer.read() == b"hello"
    await transport.close()


@pytest.mark.parametrize("work", [add_url, import_url, ask_registry])
def test_neither_netrc_nor_variables_of_the_environment_count(
    work: Callable[[str, Proxies, Path], Awaitable[None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, dict[str, str]]] = []

    async def receive(request: web.BaseRequest) -> web.Response:
        asked.append((request.method, str(request.raw_path), dict(request.headers)))
        return web.Response(text="hello")

    async def main() -> None:
        runner = web.ServerRunner(web.Server(receive))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        own, proxy = f"http://127.0.0.1:{port}/x", f"http://user:{SECRET}@127.0.0.1:{port}"
        (tmp_path / ".netrc").write_text(
            f"machine 127.0.0.1 login root password {SECRET}\ndefault login r password {SECRET}\n"
        )
        (tmp_path / ".netrc").chmod(0o600)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
            monkeypatch.setenv(name.upper(), "http://127.0.0.1:1")
        await work(own, DIRECT, tmp_path)
        assert asked and all(path == "/x" for _, path, _ in asked)
        assert not any("Authorization" in headers for _, _, headers in asked)
        asked.clear()
        await work("http://other.invalid/y", Proxies(http=proxy), tmp_path)
        assert asked[0][1] == "http://other.invalid/y", "a configured proxy is used"
        assert "Proxy-Authorization" in asked[0][2] and "Authorization" not in asked[0][2]
        await runner.cleanup()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "no", "direct"),
    [
        ("http://example.com/", "", False),
        ("http://localhost/", "", True),
        ("http://127.0.0.9/", "", True),
        ("http://[::1]:5000/", "", True),
        ("http://example.com/", "example.com", True),
        ("http://a.example.com/", "example.com", True),
        ("http://example.com/", ".example.com", False),
        ("http://a.example.com/", "*.example.com", True),
        ("http://notexample.com/", "example.com", False),
        ("http://example.com:5000/", "x, example.com:5000", True),
        ("http://example.com:5001/", "example.com:5000", False),
        ("http://10.1.2.3/", "10.1.0.0/16", True),
        ("http://10.2.2.3/", "10.1.0.0/16", False),
        ("http://[fd00::1]/", "fd00::/8", True),
        ("http://[fd00::1]:80/", "[fd00::1]:80", True),
        ("http://example.com/", "*", True),
        ("ftp://example.com/", "", True),
    ],
)
def test_which_hosts_are_reached_without_a_proxy(url: str, no: str, direct: bool) -> None:
    assert (Proxies(http="p:3128", no=no).choose(url) is None) == direct


def test_a_proxy_without_scheme_is_http() -> None:
    proxies = Proxies(http="p:3128", https="https://q")
    assert (proxies.choose("http://a.b"), proxies.choose("https://a.b")) == ("http://p:3128", "https://q")


@pytest.mark.parametrize(
    ("url", "shown", "in_errors"),
    [
        ("http://u:p@h:1/x", "http://xxxxx:xxxxx@h:1/x", "http://u:***@h:1/x"),
        ("http://u@h", "http://xxxxx:xxxxx@h", "http://u@h"),
        ("u:p@h:1", "xxxxx:xxxxx@h:1", "u:***@h:1"),
        ("http://u:p@w@h/a?b=c@d", "http://xxxxx:xxxxx@h/a?b=c@d", "http://u:***@h/a?b=c@d"),
        ("http://h/a@b", "http://h/a@b", "http://h/a@b"),
        ("h:1", "h:1", "h:1"),
    ],
)
def test_passwords_are_masked(url: str, shown: str, in_errors: str) -> None:
    assert (masked(url), without_password(url)) == (shown, in_errors)


def test_a_planted_secret_is_shown_nowhere(tmp_path: Path) -> None:
    proxy = f"http://user:{SECRET}@proxy.example:3128"
    path = tmp_path / "daemon.json"
    path.write_text(f'{{"proxies": {{"http-proxy": "{proxy}"}}, "registry-mirrors": ["https://m.example"]}}')
    config = daemon_config.load({"config-file": str(path), "https-proxy": proxy})
    assert config.engine.http_proxy == proxy
    said = [str(_settings(config.engine)), str(reload.attributes_of(config)), *config.warnings]
    for flags in ({"http-proxy": proxy}, {"registry-mirror": [proxy]}):
        with pytest.raises(ConfigError) as caught:
            daemon_config.load({"config-file": str(path), **flags})
        said.append(str(caught.value))
    for mirror in (f"ftp://u:{SECRET}@m", f"u:{SECRET}@m", f"https://u:{SECRET}@m/?q", f"https://u:{SECRET}@m"):
        path.write_text(f'{{"registry-mirrors": ["{mirror}"]}}')
        with pytest.raises(ConfigError) as caught:
            daemon_config.load({"config-file": str(path)})
        said.append(str(caught.value))
    assert not [text for text in said if SECRET in text]


def test_the_log_of_requests_shows_no_password() -> None:
    path = f"/images/create?fromSrc=http%3A%2F%2Fu%3A{SECRET}%40h%2Fz&buildargs=%7B%22A%22%3A%22{SECRET}%22%7D&q=1"
    said = shown(make_mocked_request("POST", path))
    assert said == "POST /images/create?fromSrc=http://xxxxx:xxxxx@h/z&buildargs=***&q=1"
