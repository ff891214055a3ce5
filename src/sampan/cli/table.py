"""The static command table: which words name which command, and what it does in one line.

Nothing of a command is imported until it is chosen: `COMMANDS` maps "group verb" to (module below `sampan.cli`,
summary). A command without summary is hidden. The words and their grouping are docker's.
"""

from __future__ import annotations

PROGRAM = "sampan"
ABOUT = "Containers, images, networks and volumes from the command line"

COMMON = ["run", "exec", "ps", "pull", "push", "images", "login", "logout", "version", "info"]

GROUPS = {
    "builder": "Manage builds",
    "completion": "Generate the shell completion script of sampan.",
    "container": "Manage containers",
    "context": "Manage contexts",
    "image": "Manage images",
    "manifest": "Manage manifest lists: one name for an image's builds for several platforms",
    "network": "Manage networks",
    "system": "Manage the engine",
    "volume": "Manage volumes",
}

SAY_COMMAND = frozenset(("manifest", "volume"))
"""Groups whose usage line, below an error, ends in COMMAND; docker's others have none there."""

COMMANDS: dict[str, tuple[str, str]] = {
    "builder build": ("builder.build", "Build an image from a Dockerfile"),
    "builder du": ("builder.du", "Show what the build cache takes"),
    "builder prune": ("builder.prune", "Remove build cache"),
    "container attach": ("container.attach", "Connect this terminal's streams to a running container"),
    "container commit": ("container.commit", "Make an image from a container's changes"),
    "container cp": ("container.cp", "Copy files between a container and this machine"),
    "container create": ("container.create", "Create a new container"),
    "container diff": ("container.diff", "List what changed in a container's filesystem"),
    "container exec": ("container.exec", "Run a command in a running container"),
    "container export": ("container.export", "Write a container's filesystem as a tar archive"),
    "container inspect": ("container.inspect", "Show all details of one or more containers"),
    "container kill": ("container.kill", "Send a signal to one or more running containers"),
    "container logs": ("container.logs", "Show the output of a container"),
    "container ls": ("container.ls", "List containers"),
    "container pause": ("container.pause", "Freeze all processes of one or more containers"),
    "container port": ("container.port", "List a container's published ports"),
    "container prune": ("container.prune", "Remove all stopped containers"),
    "container rename": ("container.rename", "Rename a container"),
    "container restart": ("container.restart", "Restart one or more containers"),
    "container rm": ("container.rm", "Remove one or more containers"),
    "container run": ("container.run", "Create a container from an image and run it"),
    "container start": ("container.start", "Start one or more stopped containers"),
    "container stats": ("container.stats", "Show a live stream of what containers use"),
    "container stop": ("container.stop", "Stop one or more running containers"),
    "container top": ("container.top", "Show the processes of a container"),
    "container unpause": ("container.unpause", "Thaw all processes of one or more containers"),
    "container update": ("container.update", "Change the limits of one or more containers"),
    "container wait": ("container.wait", "Wait until containers stop, then print their exit codes"),
    "image history": ("image.history", "Show the layers of an image"),
    "image import": ("image.import_", "Make an image from a tar archive of a filesystem"),
    "image inspect": ("image.inspect", "Show all details of one or more images"),
    "image load": ("image.load", "Load images from a tar archive or standard input"),
    "image ls": ("image.ls", "List images"),
    "image prune": ("image.prune", "Remove unused images"),
    "image pull": ("image.pull", "Download an image from a registry"),
    "image push": ("image.push", "Upload an image to a registry"),
    "image rm": ("image.rm", "Remove one or more images"),
    "image save": ("image.save", "Write one or more images as a tar archive"),
    "image tag": ("image.tag", "Give an image another name"),
    "manifest annotate": ("manifest.annotate", "Say more about the platform of one image of a list"),
    "manifest create": ("manifest.create", "Begin a list that can be annotated and pushed"),
    "manifest inspect": ("manifest.inspect", "Show a manifest, or a manifest list"),
    "manifest push": ("manifest.push", "Push a list to its repository"),
    "manifest rm": ("manifest.rm", "Forget lists that were begun here"),
    "volume create": ("volume.create", "Create a volume"),
    "volume inspect": ("volume.inspect", "Show all details of one or more volumes"),
    "volume ls": ("volume.ls", "List volumes"),
    "volume prune": ("volume.prune", "Remove unused local volumes"),
    "volume rm": ("volume.rm", "Remove one or more volumes that no container uses"),
    "volume update": ("volume.update", "Update a cluster volume"),
    "network connect": ("network.connect", "Connect a container to a network"),
    "network create": ("network.create", "Create a network"),
    "network disconnect": ("network.disconnect", "Disconnect a container from a network"),
    "network inspect": ("network.inspect", "Show all details of one or more networks"),
    "network ls": ("network.ls", "List networks"),
    "network prune": ("network.prune", "Remove all unused networks"),
    "network rm": ("network.rm", "Remove one or more networks"),
    "system df": ("system.df", "Show how much disk the engine uses"),
    "system dial-stdio": ("system.dial_stdio", ""),
    "system fsck": ("system.fsck", "Find what the data root holds for nobody, or has lost"),
    "system events": ("system.events", "Show what happens in the engine, as it happens"),
    "system info": ("system.info", "Show the engine's settings and state"),
    "system prune": ("system.prune", "Remove unused data"),
    "context create": ("context.create", "Create a context"),
    "context export": ("context.export", "Write a context as a tar archive, to a file or standard output"),
    "context import": ("context.import_", "Import a context from a tar or zip file"),
    "context inspect": ("context.inspect", "Show all details of one or more contexts"),
    "context ls": ("context.ls", "List contexts"),
    "context rm": ("context.rm", "Remove one or more contexts"),
    "context show": ("context.show", "Print the name of the current context"),
    "context update": ("context.update", "Update a context"),
    "context use": ("context.use", "Choose the current context"),
    "completion bash": ("completion.bash", "Generate the completion script for bash"),
    "completion fish": ("completion.fish", "Generate the completion script for fish"),
    "completion zsh": ("completion.zsh", "Generate the completion script for zsh"),
    "inspect": ("system.inspect", "Show all details of containers, images, networks or volumes"),
    "login": ("registry.login", "Log in to a registry"),
    "logout": ("registry.logout", "Log out of a registry"),
    "search": ("registry.search", "Search an index of images"),
    "version": ("system.version", "Show the versions of client and engine"),
    "__complete": ("completion.answer", ""),
}

SHORTCUTS = {
    **{
        verb: f"container {verb}"
        for verb in (
            *("attach", "commit", "cp", "create", "diff", "exec", "export", "kill", "logs", "pause", "port"),
            *("rename", "restart", "rm", "run", "start", "stats", "stop", "top", "unpause", "update", "wait"),
        )
    },
    **{verb: f"image {verb}" for verb in ("history", "import", "load", "pull", "push", "save", "tag")},
    "build": "builder build",
    "events": "system events",
    "images": "image ls",
    "info": "system info",
    "ps": "container ls",
    "rmi": "image rm",
}

ALIASES = {
    "container list": "container ls",
    "container ps": "container ls",
    "container remove": "container rm",
    "context list": "context ls",
    "context remove": "context rm",
    "image build": "builder build",
    "image list": "image ls",
    "image remove": "image rm",
    "network list": "network ls",
    "network remove": "network rm",
    "volume list": "volume ls",
    "volume remove": "volume rm",
}

GLOBAL_FLAGS = """
      --config string      Directory of the client's configuration files
  -c, --context string     Name of the context to use (wins over SAMPAN_HOST, DOCKER_HOST and "context use")
  -D, --debug              Enable debug mode
  -H, --host list          Engine to connect to
  -l, --log-level string   Level of the client's own messages ("debug", "info", "warn", "error", "fatal") (default "info")
      --tls                Use TLS; implied by --tlsverify
      --tlscacert string   Trust only certificates signed by this CA
      --tlscert string     TLS certificate file
      --tlskey string      TLS key file
      --tlsverify          Use TLS and verify the engine
  -v, --version            Print the version and exit
"""  # noqa: E501 - a line is a flag


def names_of(canonical: str) -> list[str]:
    """Return all paths of one command, the canonical first, in the order in which help lists them."""
    return [
        canonical,
        *(alias for alias, target in ALIASES.items() if target == canonical),
        *(name for name, target in SHORTCUTS.items() if target == canonical),
    ]
