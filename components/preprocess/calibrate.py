"""Device calibration: certificates turn what a device showed, and when, into the true value and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data_schemas.errors import InputError


@dataclass(frozen=True)
class Certificates:
    """Certificates of all devices as look-up tables.

    Attributes:
        device_ids: The ``d`` devices that have a certificate; a device's index is its position here.
        gain: float64 ``[d + 1, channels]``; the last row stands for devices without a certificate.
        bias: float64 ``[d + 1, channels]``, in the channels' units.
        offset: int64 ``[d + 1, channels]``, microseconds that the device's clock is fast.
        known: Bool ``[d + 1, channels]``: whether there is a certificate.
    """

    device_ids: list[str]
    gain: np.ndarray
    bias: np.ndarray
    offset: np.ndarray
    known: np.ndarray


def read_certificates(devices: pd.DataFrame, channels: Sequence[str]) -> Certificates:
    """Turn the cohort's devices table into look-up tables.

    Args:
        devices: Columns device_id, channel, gain, bias, clock_offset_seconds; may have no rows.
        channels: Channel names in the order of the series' last axis; other channels are left out.

    Returns:
        The certificates; an empty gain is 1, an empty bias or clock offset is 0.

    Raises:
        InputError: A device has two certificates for one channel, or a gain that is zero or not finite.
    """
    index = {name: position for position, name in enumerate(channels)}
    used = devices[devices["channel"].isin(index)].reset_index(drop=True)
    repeated = used.duplicated(["device_id", "channel"])
    if repeated.any():
        raise InputError(
            f"{int(repeated.sum())} calibration certificates repeat a device and channel that already have one",
            file="devices.parquet",
            field="device_id",
            remedy="Keep one certificate for each device and channel",
        )
    gain = used["gain"].fillna(1.0).to_numpy(np.float64)
    unusable = ~np.isfinite(gain) | (gain == 0)
    if unusable.any():
        raise InputError(
            f"{int(unusable.sum())} calibration certificates have a gain that is zero or not finite",
            file="devices.parquet",
            row=int(np.flatnonzero(unusable)[0]) + 2,
            field="gain",
            remedy="Correct the certificate, or leave it out",
        )
    codes, device_ids = pd.factorize(used["device_id"])
    columns = used["channel"].map(index).to_numpy(np.int64)
    shape = (len(device_ids) + 1, len(channels))
    table = Certificates(
        device_ids=list(device_ids),
        gain=np.ones(shape),
        bias=np.zeros(shape),
        offset=np.zeros(shape, dtype=np.int64),
        known=np.zeros(shape, dtype=bool),
    )
    table.gain[codes, columns] = gain
    table.bias[codes, columns] = used["bias"].fillna(0.0).to_numpy(np.float64)
    seconds = used["clock_offset_seconds"].fillna(0.0).to_numpy(np.float64)
    table.offset[codes, columns] = np.rint(seconds * 1e6).astype(np.int64)
    table.known[codes, columns] = True
    return table


def calibrate(
    value: np.ndarray, time: np.ndarray, device: np.ndarray, channel: np.ndarray, certificates: Certificates
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct readings by their device's certificate: (value - bias) / gain, time - clock offset.

    Args:
        value: float64 ``[m]``, as the device showed it, in the channel's unit.
        time: int64 ``[m]``, microseconds by the device's clock.
        device: int ``[m]``, indices into ``certificates.device_ids``; -1 for a device without one.
        channel: int ``[m]``, channel indices.
        certificates: The look-up tables.

    Returns:
        The true value (float64), the true time (int64, microseconds), and whether a certificate was applied (bool),
        each ``[m]``.
    """
    bias, gain = certificates.bias[device, channel], certificates.gain[device, channel]
    return (
        (value - bias) / gain,
        time - certificates.offset[device, channel],
        certificates.known[device, channel],
    )
