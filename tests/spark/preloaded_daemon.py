"""Spark's daemon of Python workers, with what tasks need imported before it forks them.

Workers end after a minute without work, and tests mostly wait for the JVM: each new one would spend ten seconds of CPU on
importing torch, transformers and pandas. Production workers import them once for millions of rows.
"""

import gc

import faiss  # noqa: F401
import pandas  # noqa: F401
import transformers.models.qwen2_vl.modeling_qwen2_vl  # noqa: F401
from pyspark.daemon import manager

import udfs.gme.model
import udfs.index.build  # noqa: F401

if __name__ == "__main__":
    # A worker collects garbage after every task: .4 s with all this.
    gc.collect()
    gc.freeze()
    manager()
