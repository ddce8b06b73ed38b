"""The house keeps its storeys: every import of the project is read and held to the tables below.

Rules of the file:
- The tables are the rules. A module that needs something else is added to a table here, with its reason, in the
  same commit; the checker under them has no names of its own.
- A module of engine/ that no table names is a rule: it decides, and reaches nothing outside itself.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What each storey may import of the project. What it may not import, it is given.
STOREYS = {
    "engine": {"engine"},
    "actors": {"actors", "engine"},
    "edge": {"edge", "actors", "engine"},
    "bench": {"bench"},  # it measures from outside, as a stranger
}
TOP_LEVEL_FOLDERS = {*STOREYS, "tests", ".ci"}
# Made by make, the tests or a running gateway; .gitignore names them too.
UNTRACKED_FOLDERS = {"build", "dist", "headgate-data", "bench-results", "__pycache__"}

# Modules of engine/ that reach outside, and the other drivers that each may stand on.
DRIVERS: dict[str, set[str]] = {
    "engine.bridge": set(),
    "engine.catalog_log": {"engine.jetstream"},
    "engine.catalog_store": {"engine.postgres"},
    "engine.children": set(),  # child processes
    "engine.confine": set(),  # the kernel's limits on one
    "engine.gaps_log": {"engine.jetstream", "engine.log_control"},  # what the keeper of gaps asks the log
    "engine.hashes_redis": {"engine.bridge"},
    "engine.introspection_http": set(),  # a token's issuer, over HTTP
    "engine.jetstream": {"engine.lease_journal", "engine.nats"},
    "engine.jwks": set(),  # a key set, over HTTP
    "engine.keys_file": set(),  # the keys and the secret in the data folder
    "engine.lease_journal": set(),  # what a process holds of the log, in a file that outlives it
    "engine.limits_redis": {"engine.bridge"},
    "engine.log_control": {"engine.bridge"},
    "engine.monitor": set(),  # a log server's monitoring, over HTTP
    "engine.nats": set(),
    "engine.nats_server": set(),  # the embedded server's files, and its secret
    "engine.postgres": {"engine.bridge", "engine.confine"},
    "engine.postgres_migrations": {"engine.postgres"},
    "engine.postgres_server": {"engine.children"},  # the embedded server's files, and its secret
    "engine.query_reader": set(),  # a query's cursor, on the asyncio side
    "engine.spans_otlp": set(),  # a collector, over HTTP
    "engine.workers": {"engine.children"},  # commands that work on a batch
    "engine.settings": set(),  # the one reader of the environment
}

# A rule's answer depends on its arguments alone.
NEVER_IN_A_RULE = {
    "asyncio",
    "concurrent",
    "multiprocessing",
    "random",
    "secrets",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "trio",
    "trio_websocket",
}
NEVER_NAMED_IN_A_RULE = {
    "datetime.now",
    "datetime.today",
    "datetime.utcnow",
    "os.environ",
    "os.getenv",
    "os.urandom",
    "uuid.uuid1",
    "uuid.uuid4",
}

# asyncio and the libraries that need it live behind the bridge, and nowhere else.
BEHIND_THE_BRIDGE = {"asyncio", "asyncpg", "nats", "redis", "uvloop"}
BRIDGE_MODULES = {
    "engine.bridge",
    "engine.hashes_redis",
    "engine.limits_redis",
    "engine.log_control",
    "engine.postgres",
}

# Neither deciding nor waiting knows who asks.
EDGE_ALONE = {
    "cyclopts",
    "h11",
    "h2",
    "httptools",
    "hypercorn",
    "hyperframe",
    "quart",
    "quart_trio",
    "rich",
    "trio_websocket",
    "wsproto",
}

# Actors know each other only through what makes them a tree.
ACTOR_INFRASTRUCTURE = {
    "actors.tree",
    "actors.desk",  # parts of a consumer, without tasks of their own: its socket and its HTTP agents share them
    "actors.leased",
    "actors.puller",
}

# The composition root opens drivers and starts actors; the others each open one thing of their own.
COMPOSERS = {
    "edge.serve",
    "edge.serve_engines",  # its engines, which start before it is imported
    "edge.serve_start",  # which sees to that
    "edge.agent_catalog",  # opens the database that it writes into, as a process of its own
    "edge.serve_audit",  # its part for the audit log: what the keys file has for it
    "edge.serve_workers",  # the parent of several workers: the engines and the workers
    "edge.serve_mesh",  # a worker's part: its journal, its end of the mesh
    "edge.serve_postgres",  # its part for PostgreSQL
    "edge.cli_keys",  # changes the keys file
    "edge.agent_command",  # runs a command for each batch
    "edge.demo_gateway",  # runs the gateway as a child process
    "edge.serve_spans",  # its part for spans: the collector
    "edge.serve_limits",  # its part for limits: Redis
    "edge.serve_identity",  # opened by edge.serve: reads the keys file
    "edge.doctor",  # examines the installation: the log's binary, its monitoring
}

# Past the first, look for the second noun; past the second, it is there.
LONG_FILE_LINES = 300
TOO_LONG_FILE_LINES = 400
TOO_LONG_FILES: dict[str, str] = {}  # path: why it is one noun all the same


def imports_of(name: str, tree: ast.AST, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """Every module (and name from a module) that a module imports, dotted and absolute, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if is_package else name.split(".")[:-1]
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, node.module] if node.module else base)
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def dotted(node: ast.expr) -> str:
    """`os.environ` for the expression that says so; an empty string for what is no plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := dotted(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def is_below(name: str, modules: set[str]) -> bool:
    """Whether a dotted name is one of these modules or something in it."""
    return any(name == module or name.startswith(module + ".") for module in modules)


def violations_of_import(name: str, imported: str) -> Iterator[str]:
    """What is wrong with one import of `imported` by the module `name`."""
    storey, top = name.partition(".")[0], imported.partition(".")[0]
    if top in STOREYS and top not in STOREYS[storey]:
        yield f"{storey} must not import {top}"
    if top == "tests":
        yield "the product must not import its tests"
    if top in BEHIND_THE_BRIDGE and name not in BRIDGE_MODULES and storey != "bench":
        yield f"{top} lives behind the bridge"
    if top in EDGE_ALONE and storey in ("engine", "actors"):
        yield f"{top} is the edge's alone"
    if storey == "engine" and name not in DRIVERS and top in NEVER_IN_A_RULE:
        yield f"a rule imports no {top}"
    if storey == "engine" and is_below(imported, set(DRIVERS) - {name} - DRIVERS.get(name, set())):
        yield "a rule imports rules; a driver imports rules and the drivers its table names"
    if storey == "actors" and top == "actors" and not is_below(imported, ACTOR_INFRASTRUCTURE | {name}):
        yield "an actor imports no other actor"
    if storey == "edge" and name not in COMPOSERS:
        if is_below(imported, set(DRIVERS) - {"engine.settings"}):
            yield "only the composition root opens drivers"
        if top == "actors" and imported.rpartition(".")[2].startswith("run_"):
            yield "only the composition root starts actors"


def violations_of_module(name: str, source: str, *, is_package: bool = False) -> list[str]:
    """Everything one module does that the tables do not allow, as `module:line: what`."""
    tree = ast.parse(source)
    found = [
        (line, f"{problem} ({imported})")
        for line, imported in imports_of(name, tree, is_package=is_package)
        for problem in violations_of_import(name, imported)
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and dotted(node.func) in ("__import__", "importlib.import_module"):
            found.append((node.lineno, "an import that cannot be read"))
        is_rule = name.startswith("engine.") and name not in DRIVERS
        if is_rule and isinstance(node, ast.Attribute | ast.Name) and is_hidden_input(dotted(node)):
            found.append((node.lineno, f"a rule depends on its arguments alone ({dotted(node)})"))
    return [f"{name}:{line}: {what}" for line, what in sorted(found)]


def is_hidden_input(text: str) -> bool:
    """Whether a dotted name ends in one of those that a rule may not use."""
    return any(text == hidden or text.endswith("." + hidden) for hidden in NEVER_NAMED_IN_A_RULE)


def product_files() -> Iterator[tuple[str, Path]]:
    """Every module of the storeys, by its dotted name."""
    for storey in STOREYS:
        for path in sorted((ROOT / storey).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def test_every_import_points_down_and_stays_where_its_table_puts_it() -> None:
    """No module of the four storeys breaks a rule of the tables above."""
    found = [
        violation
        for name, path in product_files()
        for violation in violations_of_module(name, path.read_text(), is_package=path.name == "__init__.py")
    ]
    assert not found, "\n".join(found)


def test_the_tables_name_only_modules_that_exist() -> None:
    """A table never keeps the name of a module that has gone."""
    named = {*DRIVERS, *BRIDGE_MODULES, *ACTOR_INFRASTRUCTURE, *COMPOSERS}
    assert named - {name for name, _ in product_files()} == set()


def test_nothing_else_stands_at_the_top_level() -> None:
    """Three storeys and two annexes are all the folders there are."""
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    visible = {name for name in folders if not name.startswith(".")} - UNTRACKED_FOLDERS
    assert visible <= TOP_LEVEL_FOLDERS, visible - TOP_LEVEL_FOLDERS


def test_no_file_holds_two_nouns() -> None:
    """No file is past the length at which the second noun is there; the long ones are reported."""
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in (*STOREYS, "tests")
        for path in (ROOT / folder).rglob("*.py")
    }
    for path, line_count in sorted(lengths.items(), key=lambda item: -item[1]):
        if line_count > LONG_FILE_LINES:
            print(f"{line_count:5} lines: {path}")
    too_long = {path: count for path, count in lengths.items() if count > TOO_LONG_FILE_LINES}
    assert too_long.keys() <= TOO_LONG_FILES.keys(), too_long


PLANTED: Mapping[str, tuple[str, str, str]] = {
    "upwards": ("engine.window", "import actors.stream\n", "engine must not import actors"),
    "upwards from actors": ("actors.stream", "from edge.routes import Route\n", "actors must not import edge"),
    "relative": ("actors.stream", "from .ingest import Publisher\n", "an actor imports no other actor"),
    "through the package": ("actors.stream", "from actors import ingest\n", "an actor imports no other actor"),
    "bench looks inside": ("bench.load", "from engine import frames\n", "bench must not import engine"),
    "product on tests": ("edge.demo", "import tests.support\n", "the product must not import its tests"),
    "asyncio": ("actors.ingest", "import asyncio\n", "asyncio lives behind the bridge"),
    "nats-py": ("engine.jetstream", "from nats.js import api\n", "nats lives behind the bridge"),
    "http in the engine": ("engine.errors", "import quart\n", "quart is the edge's alone"),
    "clock": ("engine.window", "from time import monotonic\n", "a rule imports no time"),
    "trio": ("engine.frames", "def f() -> None:\n    import trio\n", "a rule imports no trio"),
    "environment": ("engine.frames", "import os\nHOME = os.environ['HOME']\n", "os.environ"),
    "wall clock": ("engine.frames", "import datetime\nNOW = datetime.datetime.now()\n", "datetime.now"),
    "rule on driver": ("engine.frames", "from engine.nats import Connection\n", "a rule imports rules"),
    "driver on driver": ("engine.nats", "from engine import bridge\n", "a rule imports rules"),
    "second composer": ("edge.ingest", "from engine.jetstream import publish\n", "only the composition root opens"),
    "actor started": ("edge.routes", "from actors.ingest import run_publisher\n", "only the composition root starts"),
    "unreadable": ("edge.cli", "import importlib\nimportlib.import_module('x')\n", "cannot be read"),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_the_checker_catches_a_planted_violation(planted: str) -> None:
    """Each rule of the tables finds the module that breaks it, and names the line."""
    name, source, expected = PLANTED[planted]
    found = violations_of_module(name, source)
    assert len(found) == 1
    assert expected in found[0]
    assert found[0].startswith(f"{name}:")


def test_the_checker_lets_good_imports_pass() -> None:
    """What the tables allow is not reported."""
    assert violations_of_module("engine.log_control", "import asyncio, nats\nfrom engine.bridge import Bridge\n") == []
    assert violations_of_module("actors.ingest", "import trio\nfrom actors.tree import Actor\n") == []
    assert violations_of_module("edge.serve", "from actors.ingest import run_publisher\nimport engine.nats\n") == []
    assert violations_of_module("actors", "from .tree import Actor\n", is_package=True) == []
    assert {"time", "random", "socket"} <= sys.stdlib_module_names & NEVER_IN_A_RULE
