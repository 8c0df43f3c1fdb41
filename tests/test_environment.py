"""Demo, tests, set-up and commands work on a machine that is set up for other work."""

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from unittest import mock

import pytest

from cli import prune
from cli.proxies import direct_connections
from commands import http_server, run_on_stack
from docs import README
from emulators import environment as settings
from emulators.aws import ROOT, AwsEmulator
from events import TOKEN
from faulty_dynamodb import Endpoint
from scripts import local, serve

NOTHING = "http://127.0.0.1:9"  # no program listens there
PROXIES = {
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "HTTPS_PROXY": NOTHING,
    "HTTP_PROXY": NOTHING,
    "http_proxy": NOTHING,
}
# Settings that people have in their shells. Each one broke something, or could.
HOSTILE = PROXIES | {
    "AWS_CA_BUNDLE": "/absent",
    "AWS_CONFIG_FILE": "/absent",
    "AWS_ENDPOINT_URL": NOTHING,
    "AWS_MAX_ATTEMPTS": "many",
    "AWS_PROFILE": "absent",
    "CHECKPOINTS_TABLE": "another",
    "COLUMNS": "40",
    "FORCE_COLOR": "1",
    "GIT_DIR": "/absent",
    "LC_ALL": "C",
    "MAKEFLAGS": "--silent --jobs",
    "NO_COLOR": "1",
    "POWERTOOLS_DEV": "true",
    "POWERTOOLS_LOG_LEVEL": "ERROR",
    "POWERTOOLS_METRICS_DISABLED": "true",
    "POWERTOOLS_METRICS_NAMESPACE": "another",
    "PYTHONSAFEPATH": "1",
    "REQUESTS_CA_BUNDLE": "/absent",
    "SSL_CERT_FILE": "/absent",
    "TERM": "dumb",
    "TOKENS_TABLE": "another",
    "TZ": "Asia/Kathmandu",
}
MISUSED = {  # by make, uv, pip or pytest
    "PIP_PREFIX": "/absent",
    "PIP_TARGET": "/absent",
    "PYTEST_ADDOPTS": "--absent",
    "PYTHONHOME": "/absent",
    "PYTHONPATH": "/absent",
    "UV_EXCLUDE_NEWER": "2020-01-01",
    "UV_NO_DEV": "1",
    "UV_PROJECT_ENVIRONMENT": "/absent",
    "UV_PYTHON": "3.9",
}
SAMPLE = (
    "tests/api/test_audit.py::test_the_first_request_of_a_process_counts_as_one_cold_start",
    "tests/cli/test_prune.py::test_has_room_for_the_plan_even_if_the_terminal_says_that_it_has_no_columns",
    "tests/test_settings.py::test_each_request_returns_500_and_logs_the_wrong_setting[no region]",
    "tests/cli/test_smoke.py::test_passes_on_a_good_stack_and_leaves_nothing",
)
LOCK = tomllib.loads((ROOT / "tools" / "uv.lock").read_text())
WHEELS = {package["name"]: package.get("wheels", []) for package in LOCK["package"]}
# Add a target to the Makefile that prints the environment of its commands.
PROBE = "include Makefile\nprobe: ; @env"


def run(*command: str, stdin: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(  # noqa: S603 the tests name it
        command,
        cwd=ROOT,
        env=os.environ | environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=45,
    )


def test_nothing_is_inherited_but_what_programs_need_and_what_the_user_wants_to_see() -> None:
    with mock.patch.object(settings, "INHERITED", HOSTILE | MISUSED | {"PATH": "/bin"}):
        environment = settings.isolated()

    assert settings.DEFINED | {"NO_COLOR": "1", "PATH": "/bin", "TERM": "dumb"} == environment
    assert "80" == environment["COLUMNS"]


def test_the_tests_pass_with_the_settings_that_people_have() -> None:
    done = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SAMPLE, **HOSTILE)

    assert 0 == done.returncode, done.stdout + done.stderr


def test_the_demo_runs_with_the_settings_that_people_have() -> None:
    done = run(sys.executable, "-W", "error", "scripts/demo.py", **HOSTILE)

    assert 0 == done.returncode, done.stderr
    (usual,) = re.findall(r"^```text\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert set(usual.splitlines()) <= {line.rstrip() for line in done.stdout.splitlines()}


def test_any_version_of_uv_can_run_prune_py_in_this_folder() -> None:
    """Uv reads the settings of the project too, but not its libraries."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert "required-version" not in project["tool"].get("uv", {})


def make_environment(**environment: str) -> dict[str, str]:
    """Return the environment of the commands of make."""
    printed = run("make", "--file", "-", "probe", stdin=PROBE, **environment).stdout
    return dict(line.partition("=")[::2] for line in printed.splitlines())


def test_make_keeps_what_says_from_where_to_install_and_drops_what_changes_it() -> None:
    settings = {
        "HTTPS_PROXY": "http://proxy.example.com",
        "NO_PROXY": "example.com",
        "PIP_INDEX_URL": "https://index.example.com",
        "UV_DEFAULT_INDEX": "https://index.example.com",
        "UV_INDEX_PRIVATE_PASSWORD": "secret",
        "UV_INDEX_URL": "https://index.example.com",
        "UV_OFFLINE": "1",
    }
    direct = "127.0.0.1,localhost,example.com"
    own = {"NO_PROXY": direct, "no_proxy": direct, "PIP_USER": "0"}

    environment = make_environment(**settings, **MISUSED, PIP_USER="1", no_proxy="")

    assert (settings | own).items() <= environment.items()
    assert set() == environment.keys() & MISUSED.keys()


COMPANY = "https://user:a=b@index.example.com/simple"


@pytest.mark.parametrize(
    "settings",
    [
        {"PIP_INDEX_URL": COMPANY},
        {"UV_DEFAULT_INDEX": COMPANY},
        {"UV_DEFAULT_INDEX": f"company={COMPANY}"},
        {"UV_INDEX_URL": COMPANY},
    ],
    ids=str,
)
def test_pip_and_uv_use_the_index_that_is_set_for_one_of_them(settings: dict[str, str]) -> None:
    environment = make_environment(**settings)

    uv = environment.get("UV_DEFAULT_INDEX") or environment["UV_INDEX_URL"]
    assert (COMPANY, COMPANY) == (environment["PIP_INDEX_URL"], uv.removeprefix("company="))


def test_pip_ignores_each_socks_proxy() -> None:
    uv = str(ROOT / ".tools/bin/uv")
    recipe = run("make", "--dry-run", "--always-make", uv, HTTPS_PROXY="socks5://a")

    assert re.search(r"HTTPS_PROXY= +\S*python -m pip .*install", recipe.stdout)


def test_only_the_command_line_of_make_chooses_what_is_deployed_or_sent() -> None:
    names = ("ARGS", "EVENT", "EVENTS", "PORT", "PYTHON", "SAM", "STACK", "URL", "UV", "VERBOSE")
    given = ["STACK=my-checkpoints", "EVENT=my-events/delete-checkpoints.json"]
    commands = ["make", "--dry-run", "deploy", "smoke", "invoke"]

    done = run(*commands, **dict.fromkeys(names, "website"))
    chosen = run(*commands, *given, STACK="website")

    for prefix, output in (("", done.stdout), ("my-", chosen.stdout)):
        assert f'--stack-name "{prefix}checkpoints"' in output
        assert f'--stack "{prefix}checkpoints"' in output
        assert f"--event {prefix}events/delete-checkpoints.json" in output
        assert "website" not in output


@pytest.mark.parametrize("name", ["ARGS", "STACK", "URL"])
def test_not_even_make_e_lets_the_environment_choose_what_is_deployed(name: str) -> None:
    done = run("make", "--dry-run", "deploy", "smoke", MAKEFLAGS="e", **{name: "website"})

    assert (2, "") == (done.returncode, done.stdout)
    assert f"does not take {name} from the environment. Run it without -e" in done.stderr


def list_files(path: str, *_: object) -> tuple[int, str]:
    """Respond as a package index that has the files of a lock file, and not when they came."""
    links = []
    for wheel in WHEELS[path.split("/")[-2]]:
        name, digest = wheel["url"].rpartition("/")[2], wheel["hash"].replace(":", "=")
        links.append(f'<a href="{name}#{digest}">{name}</a>')
    return 200, "\n".join(links)


def test_make_installs_from_another_index_as_a_company_has(tmp_path: Path) -> None:
    """Only the last step is left out: the download of the files that were found."""
    target = ".tools/cfn-lint/ready"
    recipe = run("make", "--dry-run", "--what-if=tools/uv.lock", target).stdout
    (script,) = re.findall(r"^\S+/uv export (?:.*\\\n)*.*\n", recipe, re.MULTILINE)
    script = script.replace(".tools/cfn-lint/requirements.txt", str(tmp_path / "libraries.txt"))
    venv.create(tmp_path / "empty", with_pip=False)  # the Python of .tools can be older
    script = script.replace("--python .tools/cfn-lint", f"--python {tmp_path}/empty --dry-run")

    with http_server(list_files) as url:
        settings = {"UV_DEFAULT_INDEX": f"{url}/simple", "UV_CACHE_DIR": str(tmp_path)}
        done = run("sh", stdin=script.replace("--quiet ", ""), **settings)

    assert 0 == done.returncode, done.stderr
    assert "\n + cfn-lint==" in done.stderr


def test_make_check_accepts_the_lock_files_if_another_index_is_set() -> None:
    recipe = run("make", "--dry-run", "check").stdout
    commands = re.findall(r"^\S+/uv lock .*\n", recipe, re.MULTILINE)

    done = run("sh", "-e", stdin="".join(commands), UV_DEFAULT_INDEX=NOTHING, UV_INDEX_URL=NOTHING)

    assert (2, 0) == (len(commands), done.returncode), done.stderr


@pytest.mark.parametrize(
    ("environment", "hosts"),
    [
        ({}, None),
        ({"NO_PROXY": "example.com"}, None),
        ({"HTTP_PROXY": ""}, None),
        ({"HTTP_PROXY": NOTHING}, "127.0.0.1,localhost"),
        ({"all_proxy": NOTHING, "NO_PROXY": "a.com, b.com"}, "127.0.0.1,localhost,a.com, b.com"),
        ({"https_proxy": NOTHING, "NO_PROXY": "a", "no_proxy": "b"}, "127.0.0.1,localhost,b"),
        ({"https_proxy": NOTHING, "no_proxy": "*"}, "*"),
        ({"https_proxy": NOTHING, "no_proxy": "127.0.0.1,localhost,b"}, "127.0.0.1,localhost,b"),
    ],
)
def test_connects_to_this_machine_without_a_proxy(
    environment: dict[str, str], hosts: str | None
) -> None:
    expected = {} if hosts is None else {"NO_PROXY": hosts, "no_proxy": hosts}

    assert expected == direct_connections(environment)


def test_the_commands_of_operators_reach_an_emulator_if_a_proxy_is_set(
    endpoint: Endpoint, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_proxies(monkeypatch)

    done = run_on_stack("tokens", "list", endpoint=endpoint, capsys=capsys)

    assert (0, "") == (done.returncode, done.stderr)


def test_prune_reaches_an_emulator_if_a_proxy_is_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = json.dumps({"data": [], "has_more": False, "last_id": ""})
    set_proxies(monkeypatch)
    monkeypatch.setenv("CHECKPOINTS_TOKEN", TOKEN)

    with http_server(lambda *_: (200, empty)) as url:
        monkeypatch.setenv("CHECKPOINTS_API_URL", url)
        with pytest.raises(SystemExit) as exited:
            prune.app(["resnet-50", "--all"])
    assert 0 == exited.value.code, capsys.readouterr().err


def test_serve_and_local_print_the_export_that_curl_needs_if_a_proxy_is_set() -> None:
    outputs = dict.fromkeys(("ApiUrl", "CheckpointsTableName", "TokensTableName"), "x")
    proxy = {"HTTP_PROXY": NOTHING, "NO_PROXY": "a.com, b.com"}

    with mock.patch.object(settings, "INHERITED", proxy):
        export = settings.direct_export()

    hosts = "'127.0.0.1,localhost,a.com, b.com'"
    assert f"  export NO_PROXY={hosts} no_proxy={hosts}\n" == export
    assert f"\n{export}" in serve.instructions(AwsEmulator(1), outputs, "secret", export)
    assert f"\n{export}" in local.instructions(8000, export)


def set_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the user's proxies, and none of the settings of `isolate`."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
