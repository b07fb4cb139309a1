# make demo    compress the default checkpoint on the default data, print the report, serve it once and compare
# make test    the fast tests: a few minutes on two cores
# make test-thorough   the slow tests, and what takes minutes: every recipe that ships, from command line to bundle, on tiny models, also killed;
#                      the service against schemathesis, KServe's clients and kill -9, and without its fast path
# make test-all   both in one run, without the part of the service without its fast path, which is make test-framework
# make test-architectures   every recipe that ships with every architecture, killed and whole: hours
# make test-browser   the pages in headless Chromium, which must be installed; SPARSERVE_REQUIRE_BROWSER=1 fails without it
# make test-floors   the fast tests of the service and of the job's core on the oldest allowed version of every dependency, in
#                    build/floors
# make check   linters, types, import contracts, spelling and language
# make bench   measure the store's bundles again, on this machine
# make bench-kernels   the sparse runtime against ONNX Runtime's best, half an hour, resumable; then docs/benchmarks/kernels.md;
#                      SHAPES="modernbert-base ettin-17m" for other networks, TASK=TASK for the bundles of a task of the store,
#                      REPLACE=1 over results of another machine or build;
#                      PEERS="openvino=PYTHON openvino-int8=PYTHON deepsparse=PYTHON" adds peers from separate environments
# make bench-accuracy   every compression method on six tasks, then docs/benchmarks/accuracy.md; DATA=FOLDER of JSON lines, and
#                       TASK=mrpc METHOD=sparsebert-best LEVEL="95 %" for a part; hours on two cores, resumable
# make bench-reliability   a soak of a million requests and every fault that is tried, with one worker and with two, then
#                          docs/benchmarks/reliability.md; REQUESTS=20000 for a part
# make bench-serving   the service with dense and sparse variants under load, then docs/benchmarks/serving.md; twice SERVING_MINUTES=30;
#                      SERVING_PEERS="litserve=PYTHON mlserver=PYTHON ..." adds servers from separate environments
# make screenshots   the pictures of the page in the documentation, and the time of a comparison: the store of `make demo`
#                    with DATA/sst2/validation.jsonl
# make serve   serve the store
# make docs    build the documentation into build/site: strictly, with a check of all links
# make kserve-venv   an environment with KServe's clients, without which their test is skipped
# make audit   look up known vulnerabilities of every pinned version; needs pip-audit and the network
# make sbom    write build/sbom.json (CycloneDX): all that the service image installs
PYTHON ?= python3
VENV ?= .venv
STORE ?= store
PORT ?= 8000
SPARSITY ?= 0.9
RECIPE ?= models/recipes/demo.yaml
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Two processes, each a file at a time, in the order of tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

CYCLONEDX := cyclonedx-bom==7.5.0
PEERS ?=
SERVING_PEERS ?=
SERVING_MINUTES ?= 30
DATA ?= ../shared/data
SCALE ?= minilm-l6
TASK ?=
SHAPES ?=
REPLACE ?=
METHOD ?=
LEVEL ?=
REQUESTS ?= 1000000
FLOORS ?= tests/kernels tests/models tests/sparserve tests/service/api tests/service/catalog tests/service/http \
    tests/service/inference tests/service/test_settings.py

.PHONY: demo test test-all test-framework test-thorough test-architectures test-browser test-floors check bench bench-kernels bench-accuracy bench-reliability bench-serving screenshots serve docs setup service-venv job-venv kserve-venv audit sbom clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py constraints.txt $(wildcard kernels/csrc/*.* kernels/csrc/*/*.*)
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt -e ".[compress,dev]"
	touch $@

demo: $(INSTALLED)
	$(BIN)/sparserve compress $(RECIPE) --data movie-sentences --task movie-sentiment --sparsity $(SPARSITY) --store $(STORE)
	$(BIN)/python -m benchmarks.demo.serve_once --store $(STORE) --task movie-sentiment

test: $(INSTALLED)
	$(PYTEST)

test-framework: $(INSTALLED)
	$(PYTEST) $(addprefix tests/service/,api http observability) --framework

# In one run: to start it and to make what its tests share takes a minute.
test-all: $(INSTALLED)
	$(PYTEST) -m 'not browser'

test-thorough: test-framework
	$(PYTEST) -m 'slow or thorough'

test-architectures: $(INSTALLED)
	$(BIN)/python -m pytest -m thorough --every-architecture tests/models/pipeline/test_compress_recipes.py

test-browser: $(INSTALLED)
	$(BIN)/python -m pytest -m browser tests/browser -n 2 --dist worksteal

# Old releases use what newer ones of their own dependencies deprecate.
test-floors:
	$(PYTHON) -m venv build/floors
	$(PYTHON) .ci/floors.py compress grpc > build/floors.txt
	build/floors/bin/pip install --disable-pip-version-check --quiet -c build/floors.txt -e ".[compress,grpc]" \
	    httpx httpx2 hypothesis jsonschema pytest pytest-xdist "tritonclient[http]<2.73" cohere openai peft
	build/floors/bin/python -m pytest -n 2 --dist loadfile -W ignore::DeprecationWarning $(FLOORS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell
	$(BIN)/python .ci/check_language.py

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.latency --store $(STORE)

bench-kernels: $(INSTALLED)
	$(BIN)/python -m benchmarks.kernels $(addprefix --peer ,$(PEERS)) $(if $(SHAPES),--shapes $(SHAPES)) \
	    $(if $(TASK),--store $(STORE) --task $(TASK)) $(if $(REPLACE),--replace)
	$(BIN)/python -m benchmarks.kernels.publish

bench-accuracy: $(INSTALLED)
	$(BIN)/python -m benchmarks.accuracy --data $(DATA) --scale $(SCALE) \
	    $(addprefix --task ,$(TASK)) $(if $(METHOD),--method "$(METHOD)") $(if $(LEVEL),--level "$(LEVEL)")
	$(BIN)/python -m benchmarks.accuracy --data $(DATA) --scale $(SCALE) --latency \
	    $(addprefix --task ,$(TASK)) $(if $(METHOD),--method "$(METHOD)") $(if $(LEVEL),--level "$(LEVEL)")
	$(BIN)/python -m benchmarks.accuracy.publish

bench-reliability: $(INSTALLED)
	$(BIN)/python -m benchmarks.reliability --requests $(REQUESTS) --workers 1
	$(BIN)/python -m benchmarks.reliability --requests $(REQUESTS) --workers 2
	$(BIN)/python -m benchmarks.reliability.publish

bench-serving: $(INSTALLED) service-venv
	$(BIN)/python -m benchmarks.serving --store $(STORE) --service build/service-venv/bin/python \
	    --minutes $(SERVING_MINUTES) $(addprefix --peer ,$(SERVING_PEERS))
	$(BIN)/python -m benchmarks.serving --store $(STORE) --service build/service-venv/bin/python \
	    --minutes $(SERVING_MINUTES) $(addprefix --peer ,$(SERVING_PEERS)) --shared
	$(BIN)/python -m benchmarks.serving.publish

docs: $(INSTALLED)
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

screenshots: $(INSTALLED)
	$(BIN)/python -m benchmarks.demo.screenshots --store $(STORE) --data $(DATA)/sst2/validation.jsonl

serve: $(INSTALLED)
	$(BIN)/sparserve serve --store $(STORE) --port $(PORT)

# What the images install, in a virtual environment here: the Dockerfiles' RUN lines, executed without an engine.
service-venv:
	SPARSERVE_REQUIRE_LIBRARY=1 sh docker/install-service.sh build/service-venv

job-venv:
	SPARSERVE_REQUIRE_LIBRARY=1 sh docker/install-job.sh build/job-venv

# KServe's clients, which the tests call: what they ask for does not go with what the service is tested with.
kserve-venv:
	$(PYTHON) -m venv build/kserve-venv
	build/kserve-venv/bin/pip install --disable-pip-version-check --quiet --no-compile --no-deps \
	    -r tests/support/service/kserve-requirements.txt

audit:
	@command -v pip-audit > /dev/null || { echo "pip-audit is not installed: pip install pip-audit" >&2; exit 1; }
	pip-audit --requirement constraints.txt --no-deps --disable-pip

# In an environment of its own: the tool's dependencies are nobody else's.
sbom: service-venv
	$(PYTHON) -m venv build/sbom-venv
	build/sbom-venv/bin/pip install --disable-pip-version-check --quiet $(CYCLONEDX)
	build/sbom-venv/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type application \
	    --output-reproducible --output-file build/sbom.json build/service-venv

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
