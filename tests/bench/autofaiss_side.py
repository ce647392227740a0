"""autofaiss, in an environment of its own: `PYTHON autofaiss_side.py STEP FOLDER BYTES K`; imports nothing of this project.

Step `build` lets autofaiss choose an index for FOLDER/xb.npy that takes at most BYTES, tuned as it does by default
(under 10 ms a query); step `search` searches it as it was saved. Both print JSON, as `tests.bench.contenders` does.
"""

import contextlib
import json
import sys
import time
from pathlib import Path

import faiss
import numpy as np

REPEATS = 5  # as tests.bench.contenders


def main():
    """One step."""
    step, folder, size, k = sys.argv[1:5]
    faiss.omp_set_num_threads(1)
    print(json.dumps(build(folder, int(size)) if step == "build" else search(folder, int(k))))


def build(folder, size):
    from autofaiss import build_index

    xb = np.load(f"{folder}/xb.npy")
    reset_peak()
    cpu, wall = time.process_time(), time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        build_index(
            xb,
            save_on_disk=True,
            index_path=f"{folder}/autofaiss.faiss",
            index_infos_path=f"{folder}/autofaiss.json",
            max_index_memory_usage=f"{size // 1024}KB",
            current_memory_available="12G",
            metric_type="ip",
            nb_cores=1,
            verbose=40,
        )
    facts = json.loads(Path(folder, "autofaiss.json").read_text())
    held = Path(folder, "autofaiss.faiss").stat().st_size
    return {
        "core_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "peak_bytes": peak(),
        "bytes_per_vector": held / len(xb),
        "note": f"{facts.get('index_key')}, {facts.get('index_param')}",
    }


def search(folder, k):
    index, xq = faiss.read_index(f"{folder}/autofaiss.faiss"), np.load(f"{folder}/xq.npy")
    index.search(xq[:8], k)
    done = []
    for _ in range(REPEATS):
        reset_peak()
        cpu, wall = time.process_time(), time.perf_counter()
        found = index.search(xq, k)[1]
        seconds, wall = time.process_time() - cpu, time.perf_counter() - wall
        done.append({"core_seconds": seconds, "wall_seconds": wall, "peak_bytes": peak()})
    np.save(f"{folder}/found.npy", found)
    return min(done, key=lambda one: one["core_seconds"])


def reset_peak():
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
