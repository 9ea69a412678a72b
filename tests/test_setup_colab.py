"""The set-up cell where the package is missing: as on Colab, as on a bare Jupyter, and without a network.

A stand-in for pip writes down what it was asked to install, and installs a stand-in for clipnotes.
"""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import clipnotes
from notebooks import ROOT, TEMPLATE, chapters, read

NOTEBOOKS = [TEMPLATE, *chapters()]
# What Colab's image held in 2025. None of it may be installed again.
COLAB = {
    "torch": "2.8.0",
    "torchvision": "0.23.0",
    "numpy": "2.0.2",
    "scipy": "1.16.1",
    "scikit-learn": "1.6.1",
    "filelock": "3.19.1",
    "ipywidgets": "7.7.1",
    "ipython": "7.34.0",
    "matplotlib": "3.10.0",
    "pillow": "11.3.0",
    "safetensors": "0.6.2",
    "tqdm": "4.67.1",
    "datasets": "4.0.0",
    "scikit-image": "0.25.2",
    "regex": "2024.11.6",
    "timm": "1.0.19",
    "huggingface_hub": "0.34.4",
    "transformers": "4.55.4",
    "pandas": "2.2.2",
    "pycocotools": "2.0.10",
}
MODULE = {"scikit-image": "skimage", "scikit-learn": "sklearn", "pillow": "PIL", "ipython": "IPython"}
EMPTY = "__version__ = '7.7.1'\ndef start(*a, **k): return 'session'\ndef __getattr__(name): return name\n"
PIP = f"""
import os, sys
from pathlib import Path
here = Path(__file__).resolve().parent.parent
(here / "asked").write_text(chr(10).join(sys.argv[1:]), "utf-8")
if os.environ.get("NO_NETWORK"):
    sys.exit(1)
package = here / "clipnotes"
package.mkdir()
(package / "__init__.py").write_text({EMPTY!r}, "utf-8")
"""


def set_up(folder: Path, source: str, modules: list[str], **extra: str) -> subprocess.CompletedProcess:
    """Run the set-up cell in a Python that has nothing but these modules, all of them empty, and our pip."""
    for module in modules:
        (folder / module).mkdir()
        (folder / module / "__init__.py").write_text(EMPTY, "utf-8")
    (folder / "pip").mkdir()
    (folder / "pip" / "__init__.py").write_text("", "utf-8")
    (folder / "pip" / "__main__.py").write_text(PIP, "utf-8")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(folder), **extra}
    return subprocess.run(
        [sys.executable, "-S", "-c", source], env=environment, cwd=folder, capture_output=True, text=True
    )


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def cell(request) -> str:
    return next(c.source for c in read(request.param).cells if c.id == "set-up")


def test_colab_keeps_what_it_has(cell, tmp_path):
    done = set_up(tmp_path, cell, [MODULE.get(name, name) for name in COLAB])
    assert done.returncode == 0, done.stderr
    asked = (tmp_path / "asked").read_text("utf-8").split("\n")
    assert asked[0] == "install" and "--no-deps" in asked
    assert any(part.startswith("clipnotes @ git+https://github.com/clip-notes/clip-notes") for part in asked)
    names = {part.split()[0].replace("-", "_") for part in asked if part}
    assert names.isdisjoint(name.replace("-", "_") for name in COLAB), asked


def test_colab_gets_what_is_missing(cell, tmp_path):
    done = set_up(tmp_path, cell, [MODULE.get(name, name) for name in COLAB])
    asked = (tmp_path / "asked").read_text("utf-8").split("\n")
    needed = {Requirement(r).name for r in project()["dependencies"]}
    assert done.returncode == 0 and {name for name in needed if name not in COLAB} <= set(asked)


def test_the_version_of_the_notebook_is_installed(cell, tmp_path):
    """What is on the main branch tomorrow may not fit a notebook that was downloaded today."""
    set_up(tmp_path, cell, [])
    asked = (tmp_path / "asked").read_text("utf-8").split("\n")
    assert f"clipnotes @ git+https://github.com/clip-notes/clip-notes@v{clipnotes.__version__}" in asked


def test_what_the_small_packages_need_comes_along(cell, tmp_path):
    """--no-deps asks for nothing by itself: what a package that Colab lacks needs is there, or asked for by name."""
    set_up(tmp_path, cell, [MODULE.get(name, name) for name in COLAB])
    asked = {name.replace("-", "_") for name in (tmp_path / "asked").read_text("utf-8").split("\n")}
    there = {name.replace("-", "_").lower() for name in COLAB} | {"packaging", "pyyaml", "typing_extensions"}
    small = [name for name in asked if name not in ("install", "_q", "__no_deps") and " @ " not in name]
    assert len(small) >= 5
    for name in small:
        for need in map(Requirement, requires(name) or []):
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                assert need.name.replace("-", "_").lower() in asked | there, f"{name} needs {need.name}"


def test_a_bare_jupyter_gets_everything(cell, tmp_path):
    """Without torch pip resolves all of it; with the package nothing is asked for."""
    done = set_up(tmp_path, cell, ["ipykernel"])
    assert "--no-deps" not in (tmp_path / "asked").read_text("utf-8")
    assert done.returncode == 0 or "No module named" in done.stderr


def test_nothing_is_asked_where_the_package_is(cell, tmp_path):
    done = set_up(tmp_path, cell, [*(MODULE.get(name, name) for name in COLAB), "clipnotes"])
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "asked").exists()


def test_without_a_network_it_says_what_to_do(cell, tmp_path):
    done = set_up(tmp_path, cell, ["torch"], NO_NETWORK="1")
    assert done.returncode != 0 and "How to start" in done.stderr


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_lower_bounds_suit_colab():
    """pip would leave Colab's versions alone too: each lies above our lower bound, and there is no other."""
    for text in project()["dependencies"]:
        requirement = Requirement(text)
        assert {s.operator for s in requirement.specifier} <= {">="}, text
        if requirement.name in COLAB:
            assert requirement.specifier.contains(COLAB[requirement.name]), text


def test_requirements_are_pinned_and_suit_the_package():
    lines = (ROOT / "requirements.txt").read_text("utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all([s.operator for s in r.specifier] == ["=="] and "+" not in str(r.specifier) for r in pinned)
    versions = {r.name.lower().replace("-", "_"): next(iter(r.specifier)).version for r in pinned}
    extras = [r for group in project()["optional-dependencies"].values() for r in group]
    for requirement in map(Requirement, project()["dependencies"] + extras):
        name = requirement.name.lower().replace("-", "_")
        assert name in versions and requirement.specifier.contains(versions[name]), requirement


def test_the_lowest_versions_are_the_lower_bounds():
    """torch has no old build for CPUs to be tried with; torchvision comes with it."""
    lines = (ROOT / "requirements-lowest.txt").read_text("utf-8").splitlines()
    tried = {r.name: r.specifier for r in (Requirement(line) for line in lines if line and not line.startswith("#"))}
    extras = project()["optional-dependencies"]
    for requirement in map(Requirement, project()["dependencies"] + extras["films"] + extras["meshes"]):
        low = next(iter(requirement.specifier)).version
        if requirement.name != "torch":
            assert tried[requirement.name].contains(low), f"{requirement}, but {tried[requirement.name]} was tried"


def test_figures_live_on_ipywidgets_7():
    """Colab's ipywidgets has no Stack: the interactive figure becomes a sheet, and nothing raises."""
    source = (
        "import ipywidgets; del ipywidgets.Stack; ipywidgets.__version__ = '7.7.1'\n"
        "import torch; from clipnotes import draw\n"
        "shown = draw.slider([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)], ['black', 'white'], 'colour')\n"
        "print(type(shown).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("Figure")
