"""Manifest lists in the making: kept below the client's configuration, as docker keeps them, until they are pushed.

    manifests/<list>/<manifest>   one JSON document an image: Ref, Descriptor, Raw, SchemaV2Manifest or OCIManifest

Source: the files and words of docker 28.2's `manifest` commands.
"""

from __future__ import annotations

import base64
import os

from sampan.cli.config import write_atomically
from sampan.cli.registry import credentials
from sampan.cli.session import CommandError
from sampan.client import jsontext
from sampan.client import registry as registries
from sampan.client.registry import Missing, Registry, RegistryError
from sampan.errors import InvalidArgument
from sampan.spec import reference
from sampan.spec.reference import Reference

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.session import Cli

LISTS = (registries.LIST, registries.OCI_INDEX)
_PLATFORM = ("architecture", "os", "os.version", "os.features", "variant")


def named(text: str, what: str) -> Reference:
    """Return a full reference, with `latest` where nothing is said. Raises: CommandError."""
    try:
        return reference.parse(text).tagged()
    except InvalidArgument as e:
        raise CommandError(f"{what}: {e.message}" if what else e.message) from e


class Lists:
    """The lists of one user."""

    def __init__(self, cli: Cli) -> None:
        self._root = os.path.join(cli.config.directory, "manifests")

    def _directory(self, name: Reference) -> str:
        return os.path.join(self._root, _safe(str(name)))

    def all(self, name: Reference) -> list[dict[str, Any]]:
        """Return the manifests of a list, in the order of their names; [] for none."""
        try:
            files = sorted(os.listdir(self._directory(name)))
        except FileNotFoundError:
            return []
        return [self._read(os.path.join(self._directory(name), file)) for file in files]

    def get(self, name: Reference, manifest: Reference) -> dict[str, Any] | None:
        path = os.path.join(self._directory(name), _safe(str(manifest)))
        return self._read(path) if os.path.exists(path) else None

    def put(self, name: Reference, manifest: Reference, document: dict[str, Any]) -> None:
        os.makedirs(self._directory(name), mode=0o755, exist_ok=True)
        write_atomically(os.path.join(self._directory(name), _safe(str(manifest))), jsontext.dumps(document).encode())

    def remove(self, name: Reference) -> bool:
        """Remove a list. Returns False when there is none."""
        directory = self._directory(name)
        if not os.path.isdir(directory):
            return False
        for file in os.listdir(directory):
            os.unlink(os.path.join(directory, file))
        os.rmdir(directory)
        return True

    @staticmethod
    def _read(path: str) -> dict[str, Any]:
        with open(path, "rb") as file:
            document: dict[str, Any] = jsontext.loads(file.read())
        return document


def _safe(name: str) -> str:
    return name.replace(":", "-").replace("/", "_")


# -- from a registry ------------------------------------------------------------------------------------------------


def connect(cli: Cli, name: Reference, *, insecure: bool) -> Registry:
    """Return the registry of a name. Raises: CommandError in docker's words."""
    key = credentials.HUB_KEY if name.domain == credentials.HUB else name.domain
    try:
        found = Registry(name.domain, credentials.lookup(cli.config, key), insecure=insecure)
    except RegistryError as e:
        raise CommandError(str(e)) from e
    if not found.usable:
        raise CommandError(f"no such manifest: {name.familiar()}")
    return found


def fetch(cli: Cli, name: Reference, *, insecure: bool) -> tuple[Registry, bytes, str, str]:
    """Return (registry, bytes, media type, digest) of what a name is. Raises: CommandError."""
    place = connect(cli, name, insecure=insecure)
    try:
        return place, *place.manifest(name.path, name.digest or name.tag)
    except Missing as e:
        raise CommandError(f"no such manifest: {name.familiar()}") from e
    except RegistryError as e:
        raise CommandError(str(e)) from e


def image(
    place: Registry, name: Reference, ref: str, raw: bytes, media_type: str, digest: str, platform: Any = None
) -> dict[str, Any]:
    """Return the document of one image. platform: what a list says of it; else its configuration is asked."""
    manifest = jsontext.loads(raw)
    if platform is None:
        try:
            config = jsontext.loads(place.blob(name.path, manifest["config"]["digest"]))
        except RegistryError as e:
            raise CommandError(str(e)) from e
        platform = {key: config[key] for key in _PLATFORM if config.get(key)}
    descriptor = {"mediaType": media_type, "digest": digest, "size": len(raw), "platform": ordered(platform)}
    kind = "OCIManifest" if media_type == registries.OCI_MANIFEST else "SchemaV2Manifest"
    encoded = base64.b64encode(raw).decode()
    return {"Ref": ref, "Descriptor": descriptor, "Raw": encoded, kind: _in_order(manifest, kind)}


def ordered(platform: dict[str, Any]) -> dict[str, Any]:
    """Return a platform's fields as docker writes them."""
    return {key: platform[key] for key in _PLATFORM if platform.get(key)}


def _in_order(manifest: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind == "OCIManifest":
        return manifest

    def described(item: dict[str, Any]) -> dict[str, Any]:
        return {key: item[key] for key in ("mediaType", "size", "digest", "urls") if key in item}

    return {
        "schemaVersion": manifest["schemaVersion"],
        "mediaType": manifest["mediaType"],
        "config": described(manifest["config"]),
        "layers": [described(layer) for layer in manifest["layers"]],
    }


def manifest_of(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document.get("SchemaV2Manifest") or document["OCIManifest"]
    return found


def list_bytes(descriptors: list[dict[str, Any]]) -> bytes:
    """Return the manifest list over some images, to docker's byte."""
    entries = [
        {**{key: one[key] for key in ("mediaType", "size", "digest")}, "platform": ordered(one["platform"])}
        for one in descriptors
    ]
    document = {"schemaVersion": 2, "mediaType": registries.LIST, "manifests": entries}
    return jsontext.indented(document, "   ").encode()
