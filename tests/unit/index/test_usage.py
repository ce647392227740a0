"""Core seconds and peak memory are those of the block that is measured."""

import time

import numpy as np

from udfs.index.usage import UsageMeter, resident_bytes


def test_the_peak_is_of_the_block_alone():
    np.ones(50_000_000)  # touched, and given back
    meter = UsageMeter()
    assert abs(meter.peak_bytes - resident_bytes()) < 40e6
    before = meter.peak_bytes
    np.ones(10_000_000)
    assert 60e6 < meter.peak_bytes - before < 200e6
    assert resident_bytes() < meter.peak_bytes - 40e6


def test_waiting_costs_no_core_seconds():
    meter = UsageMeter()
    while meter.core_seconds < 0.05:
        pass
    time.sleep(0.2)
    assert 0.05 <= meter.core_seconds < 0.15
