# All commands for development. They install only into this folder: uv and its tools into .tools, the
# libraries into .venv. `make clean` removes everything.

ifneq ($(words $(CURDIR)),1)
$(error make does not support spaces in the path of this folder: $(CURDIR))
endif

# Set these on the command line of make only. `:=` ignores variables of the environment: many shells
# have a PORT or a STACK, which must not choose what is deployed.
PYTHON := python3
ARGS :=
EVENT := events/delete-checkpoints.json
EVENTS :=
PORT :=
STACK := checkpoints
URL :=
VERBOSE :=
# `make -e` would let the environment win.
$(foreach name,ARGS STACK URL,$(if $(filter environment,$(origin $(name))), \
	$(error make does not take $(name) from the environment. Run it without -e)))

uv := $(CURDIR)/.tools/bin/uv
python := .venv/bin/python
python_version := $(shell cat .python-version)

# Each tool has its own environment, because its pinned libraries conflict with the project's.
export SAM := $(CURDIR)/.tools/sam/bin/sam
export MINISTACK := $(CURDIR)/.tools/ministack/bin/python $(CURDIR)/emulators/run_ministack.py
cfn_lint := .tools/cfn-lint/bin/cfn-lint
checkov := .tools/checkov/bin/checkov

# Of the user's settings of uv and pip, keep those that say from where to install, and how to connect.
# The others could change what is installed, or where. The user's settings of Python and pytest, such
# as PYTHONPATH, could change what runs.
kept := PYTHON_KEYRING_BACKEND UV_INDEX% UV_DEFAULT_INDEX UV_EXTRA_INDEX_URL UV_FIND_LINKS \
	UV_NO_INDEX UV_CONFIG_FILE UV_KEYRING_PROVIDER UV_CREDENTIALS_DIR UV_INSECURE_HOST UV_NATIVE_TLS UV_SYSTEM_CERTS UV_HTTP_% \
	UV_REQUEST_TIMEOUT UV_CONCURRENT_% UV_OFFLINE UV_LINK_MODE UV_PYTHON_DOWNLOADS% \
	UV_PYTHON_INSTALL_MIRROR PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_NO_INDEX \
	PIP_CONFIG_FILE PIP_KEYRING_PROVIDER PIP_TRUSTED_HOST PIP_CERT PIP_CLIENT_CERT PIP_PROXY \
	PIP_TIMEOUT PIP_DEFAULT_TIMEOUT PIP_RETRIES PIP_USE_FEATURE PIP_USE_DEPRECATED
unexport $(filter-out $(kept),$(filter UV_% PIP_% PYTHON% PYTEST_% VIRTUAL_ENV CONDA_PREFIX,$(.VARIABLES)))
# These would choose another template, or another kind of build.
unexport SAM_TEMPLATE_FILE SAM_BUILD_MODE
export UV_CACHE_DIR := $(CURDIR)/.tools/cache
export UV_PYTHON_INSTALL_DIR := $(CURDIR)/.tools/python
export SAM_CLI_TELEMETRY := 0

# Some people have `user = true` in pip's configuration file, which this overrides.
export PIP_USER := 0

# The emulators listen on this machine, so connections to it must not go through a proxy.
# (Without any proxy, this would turn off the proxy of the system settings of macOS.)
comma := ,
direct := $(or $(no_proxy),$(NO_PROXY))
ifneq ($(HTTP_PROXY)$(http_proxy)$(HTTPS_PROXY)$(https_proxy)$(ALL_PROXY)$(all_proxy),)
ifneq ($(direct),*)
export NO_PROXY := 127.0.0.1,localhost$(if $(direct),$(comma)$(direct))
export no_proxy := $(NO_PROXY)
endif
endif

# pip cannot use a SOCKS proxy, and fails.
proxies := HTTP_PROXY http_proxy HTTPS_PROXY https_proxy ALL_PROXY all_proxy
pip := $(foreach name,$(proxies),$(if $(findstring socks,$($(name))),$(name)=)) .tools/bin/python -m pip

# pip and uv read different variables. If an index is set for only one of them, the other uses it too.
ifeq ($(UV_DEFAULT_INDEX)$(UV_INDEX_URL),)
ifneq ($(PIP_INDEX_URL),)
export UV_DEFAULT_INDEX := $(PIP_INDEX_URL)
endif
else ifeq ($(PIP_INDEX_URL),)
export PIP_INDEX_URL := $(shell printf %s "$${UV_DEFAULT_INDEX:-$$UV_INDEX_URL}" | sed 's/^[A-Za-z0-9._-]*=//')
endif

# With `make --jobs`, or MAKEFLAGS=-j in the environment, the timing of the tests would suffer.
.NOTPARALLEL:

# samconfig.toml has an environment for each processor architecture. The default is arm64.
config_env := $(if $(filter x86_64 amd64,$(shell uname -m)),--config-env x86_64)

# Print in bold on a terminal, unless NO_COLOR is set or TERM is dumb.
define say
	@if [ -t 1 ] && [ -z "$$NO_COLOR" ] && [ "$$TERM" != dumb ]; then printf '\033[1m%s\033[0m\n' "$(1)"; else echo "$(1)"; fi
endef

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: setup
setup: .venv/ready ## Install the libraries into this folder

.PHONY: demo
demo: .venv/ready ## Show the product in memory, or send EVENTS through the functions
	@$(python) scripts/$(if $(EVENTS),send_events.py $(EVENTS),demo.py)

.PHONY: test
test: .venv/ready ## Run the tests
	$(python) -m pytest --numprocesses 3 --dist worksteal

.PHONY: check
check: .venv/ready .tools/sam/ready .tools/cfn-lint/ready .tools/checkov/ready ## Check format, lint, types, template, docs and generated files
	$(lock) --offline --check
	$(lock) --offline --check --project tools
	$(python) -m ruff format --check
	$(python) -m ruff check
	$(python) -m mypy
	.venv/bin/lint-imports --no-logo --no-cache
	env -u AWS_PROFILE AWS_DEFAULT_REGION=us-east-1 $(SAM) validate --lint
	$(cfn_lint) --non-zero-exit-code informational template.yaml
	$(checkov) --file template.yaml --framework cloudformation --skip-download --quiet --compact
	$(python) scripts/openapi.py --check
	$(python) scripts/picture.py --check
	.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*
	.venv/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	.venv/bin/zizmor --quiet --offline --strict-collection .
	$(python) -m pytest --quiet tests/test_docs.py
	$(uv) export $(requirements) | diff -u src/requirements.txt -

.PHONY: build
build: .venv/ready .tools/sam/ready ## Package the functions for Lambda into .aws-sam/build
	@MAKEFLAGS= PYTHON="$(CURDIR)/$(python)" $(SAM) build

.PHONY: deploy
deploy: .venv/ready ## Build, and deploy STACK (default: checkpoints) with ARGS
	@$(python) scripts/preflight.py $(ARGS)
	@$(MAKE) --no-print-directory build
	@$(SAM) deploy --stack-name "$(STACK)" $(ARGS)

.PHONY: local
local: .venv/ready .tools/ministack/ready ## Run a DynamoDB with the demo's data, on PORT (default: 8000)
	@$(python) scripts/local.py $(if $(PORT),--port $(PORT))

.PHONY: reseed
reseed: .venv/ready ## Reset the data of make local, on PORT (default: 8000)
	@$(python) scripts/local.py --reseed $(if $(PORT),--port $(PORT))

.PHONY: invoke
invoke: build ## Send EVENT to the function in a container; needs make local
	@$(SAM) local invoke ApiFunction --event $(EVENT) $(config_env) $(ARGS)

.PHONY: invoke-all
invoke-all: build .tools/ministack/ready ## Test that each sample event gets its status in a container; needs Docker
	$(python) -m pytest -v --timeout 300 -o faulthandler_timeout=360 tests/containers

.PHONY: start-api
start-api: build ## Serve the API with the function in a container; needs make local
	@$(SAM) local start-api $(config_env) $(ARGS)

.PHONY: serve
serve: .venv/ready .tools/ministack/ready .tools/sam/ready ## Deploy to a local AWS emulator, on PORT (default: a free port)
	@$(python) scripts/serve.py $(if $(PORT),--port $(PORT)) $(if $(VERBOSE),--verbose)

.PHONY: smoke
smoke: .venv/ready ## Test the deployed STACK (default: checkpoints), optionally at URL
	@.venv/bin/checkpoints smoke --stack "$(STACK)" $(if $(URL),--url "$(URL)")

.PHONY: e2e
e2e: .venv/ready .tools/ministack/ready .tools/sam/ready ## Run the end-to-end tests against a local AWS emulator
	$(python) -m pytest --timeout 300 -o faulthandler_timeout=360 tests/e2e

.PHONY: bench
bench: .venv/bench ## Compare with other implementations, write docs/benchmarks.md
	@PYTHONPATH=tests $(python) benchmarks/run.py

.PHONY: bench-check
bench-check: bench-types ## Run the benchmarks, and fail if a target is missed
	@PYTHONPATH=tests $(python) benchmarks/run.py --check

.PHONY: bench-types
bench-types: .venv/bench ## Check the types in benchmarks/
	$(python) -m mypy benchmarks

.PHONY: update
update: $(uv) ## Lock the libraries (ARGS=--upgrade: the newest), format the code, write generated files
	$(lock) $(ARGS)
	$(lock) $(ARGS) --project tools
	@$(MAKE) --no-print-directory --silent .venv/ready
	$(python) -m ruff format
	$(python) -m ruff check --fix
	$(python) scripts/openapi.py
	$(python) scripts/picture.py
	$(uv) export $(requirements) --output-file src/requirements.txt

# The lock files name the public index. With another one, such as a company's, uv would demand new files.
lock = $(uv) lock --quiet --default-index $(shell sed -n 's/.*registry = "\([^"]*\)".*/\1/p' uv.lock | head -n 1)
requirements := --quiet --frozen --no-dev --no-emit-project --no-header --no-annotate

.PHONY: clean
clean: ## Remove everything that was installed or built
	rm -rf .venv .tools .aws-sam .hypothesis .mypy_cache .pytest_cache .ruff_cache .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,ENVIRONMENT,OPTIONS) installs exactly what the lock file says, with its hashes, from
# any index. OPTIONS of uv export choose the libraries.
define install
	@$(uv) export --quiet --frozen --no-emit-project $(2) --output-file $(1)/requirements.txt && \
	$(uv) pip sync --quiet --require-hashes --python $(1) $(1)/requirements.txt || { echo "Could not \
	set up $(1). See the error of uv above. If a library could not be downloaded, check that a package \
	index is reachable. If a certificate is unknown, set SSL_CERT_FILE." >&2; exit 1; }
endef

# $(call create,ENVIRONMENT) creates an empty environment.
define create
	@$(uv) python find --system $(python_version) > /dev/null 2>&1 || echo "Python $(python_version) was \
	not found. uv now downloads it from GitHub (the project python-build-standalone) into \
	.tools/python. To use your own Python $(python_version), put it on the PATH: \
	PATH=/path/to/bin:\$$PATH make setup"
	@$(uv) venv --quiet --clear --python $(python_version) $(1) || { echo "Could not create $(1). See the \
	error of uv above. If Python $(python_version) could not be downloaded, install it, and put \
	python$(python_version) on the PATH." >&2; exit 1; }
endef

# The project itself is built with the hatchling of the lock file.
install_project := $(uv) pip install --quiet --no-deps --no-build-isolation --python .venv --editable .

.venv/ready: pyproject.toml uv.lock .python-version $(uv)
	$(call say,Installing the libraries into .venv)
	$(call create,.venv)
	$(call install,.venv)
	@$(install_project)
	@touch $@

.tools/%/ready: tools/pyproject.toml tools/uv.lock .python-version $(uv)
	$(call say,Installing $* into .tools)
	$(call create,.tools/$*)
	$(call install,.tools/$*,--project tools --only-group $*)
	@touch $@

# The benchmarks also need the libraries of the other implementations and of the plots. A Python that
# uv downloaded is compiled to bytecode first, because Lambda's Python is compiled too.
.venv/bench: .venv/ready
	@test "$$(uname)" = Linux || { echo "The benchmarks run only on Linux." >&2; exit 1; }
	$(call install,.venv,--group bench)
	@$(install_project)
	@! test -d .tools/python || $(python) -m compileall -q -j 0 -x 'site-packages|/tests?/' .tools/python
	@touch $@

# The version of uv is in tools/pyproject.toml, where Dependabot finds it. pip cannot read tools/uv.lock.
$(uv): tools/pyproject.toml
	$(call say,Installing uv into .tools)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 8))' || { echo "$(PYTHON) does not run, \
	or is older than 3.8. To use another, add PYTHON=/path/to/python3 to the command." >&2; exit 1; }
	@$(PYTHON) -m venv .tools || { echo "$(PYTHON) cannot create virtual environments. On Debian and \
	Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(pip) --disable-pip-version-check install --quiet \
	"$$(sed -n 's/.*"\(uv==[^"]*\)".*/\1/p' tools/pyproject.toml)" || { echo "Could not \
	install uv. Is a package index reachable?" >&2; exit 1; }
	@touch $@
