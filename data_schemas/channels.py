"""The catalogue of channels: codes of other systems, canonical units, plausible ranges and unit conversions.

The catalogue itself is ``channels.yaml`` beside this module. Nothing here learns from data, so training and
serving read the same values in the same way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data_schemas.cohort import Channel

CATALOGUE_FILE = Path(__file__).with_name("channels.yaml")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UnitConversion(_Entry):
    """Linear conversion into the canonical unit: ``factor * value + offset``."""

    factor: float = Field(description="Canonical units in one of this unit")
    offset: float = Field(default=0.0, description="Canonical value at zero of this unit")


class CatalogueChannel(_Entry):
    """One channel of the catalogue."""

    unit: str = Field(description="Canonical unit, UCUM")
    low: float = Field(description="Lowest plausible value in the canonical unit")
    high: float = Field(description="Highest plausible value in the canonical unit")
    names: list[str] = Field(default_factory=list, description="Names in exports and table headings, lower case")
    loinc: list[str] = Field(default_factory=list, description="LOINC codes")
    physionet2012: str | None = Field(default=None, description="Parameter of the PhysioNet 2012 challenge")
    physionet2012_unit: str | None = Field(default=None, description="Its unit where not the canonical one")
    meds: dict[str, str] = Field(default_factory=dict, description="MEDS code (without unit) to its default unit")
    units: dict[str, UnitConversion] = Field(default_factory=dict, description="Other units that convert")
    confused_units: list[str] = Field(default_factory=list, description="Units often typed for one another")

    @model_validator(mode="after")
    def _check(self) -> CatalogueChannel:
        if not self.low < self.high:
            raise ValueError(f"low must be below high; received {self.low} and {self.high}.")
        return self

    def conversion(self, unit: str) -> UnitConversion | None:
        """Return the conversion from a UCUM unit, or None where there is none."""
        return UnitConversion(factor=1.0) if unit == self.unit else self.units.get(unit)


class Panel(_Entry):
    """One measurement that holds several channels, such as a blood pressure."""

    channels: list[str] = Field(description="Channels in the order in which they are written")
    names: list[str] = Field(default_factory=list, description="Names in exports and table headings, lower case")
    loinc: list[str] = Field(default_factory=list, description="LOINC codes of the panel")


class _CatalogueFile(_Entry):
    unit_aliases: dict[str, list[str]]
    panels: dict[str, Panel]
    channels: dict[str, CatalogueChannel]


@dataclass(frozen=True)
class Converted:
    """Values brought to the canonical unit.

    Attributes:
        values: float64 ``[n]``, canonical; NaN where the unit is not known for the channel.
        unit_known: bool ``[n]``.
        plausible: bool ``[n]``: known, finite, and inside the channel's range.
        corrected: bool ``[n]``: taken in another unit than declared, because only that one is plausible.
    """

    values: np.ndarray
    unit_known: np.ndarray
    plausible: np.ndarray
    corrected: np.ndarray


Conversion = tuple[float, float, float, float, float, float]


def apply_conversions(conversions: np.ndarray, values: np.ndarray) -> Converted:
    """Bring values to canonical units and compare them with the plausible ranges; ingest and serving call this.

    Args:
        conversions: float64 ``[n, 6]``, from ``Catalogue.conversion``.
        values: float64 ``[n]``.

    Returns:
        The converted values and what was found.
    """
    factor, offset, low, high, other_factor, other_offset = conversions.T
    # A value near the largest float becomes infinite, and so implausible.
    with np.errstate(over="ignore"):
        converted, other = values * factor + offset, values * other_factor + other_offset
    plausible = (converted >= low) & (converted <= high)
    corrected = ~plausible & (other >= low) & (other <= high)
    return Converted(
        values=np.where(corrected, other, converted),
        unit_known=~np.isnan(factor),
        plausible=plausible | corrected,
        corrected=corrected,
    )


class Catalogue:
    """All channels, with look-ups by code and vectorised unit conversion.

    Args:
        content: The parsed ``channels.yaml``.
    """

    def __init__(self, content: dict) -> None:
        self.content = content
        parsed = _CatalogueFile.model_validate(content)
        self.channels = parsed.channels
        self.panels = parsed.panels
        self._unit_names = {alias: unit for unit, aliases in parsed.unit_aliases.items() for alias in aliases}
        self._unit_names |= {unit.casefold(): unit for unit in parsed.unit_aliases}

    @cached_property
    def by_loinc(self) -> dict[str, str]:
        """LOINC code to channel."""
        return {code: name for name, channel in self.channels.items() for code in channel.loinc}

    @cached_property
    def panel_by_loinc(self) -> dict[str, str]:
        """LOINC code to panel."""
        return {code: name for name, panel in self.panels.items() for code in panel.loinc}

    @cached_property
    def by_physionet2012(self) -> dict[str, tuple[str, str]]:
        """PhysioNet 2012 parameter to channel and unit."""
        return {
            channel.physionet2012: (name, channel.physionet2012_unit or channel.unit)
            for name, channel in self.channels.items()
            if channel.physionet2012
        }

    @cached_property
    def by_meds(self) -> dict[str, tuple[str, str]]:
        """MEDS code, without its unit, to channel and default unit."""
        return {code: (name, unit) for name, channel in self.channels.items() for code, unit in channel.meds.items()}

    @cached_property
    def by_name(self) -> dict[str, tuple[str, ...]]:
        """Measurement name, lower case, to its channels: one, or a panel's in order."""
        names: dict[str, tuple[str, ...]] = {name: (name,) for name in self.channels}
        names |= {alias: (name,) for name, channel in self.channels.items() for alias in channel.names}
        names |= {alias: tuple(panel.channels) for panel in self.panels.values() for alias in panel.names}
        return names

    def contract(self, name: str) -> Channel:
        """Return a channel as the cohort's manifest lists it.

        Args:
            name: A channel of the catalogue.

        Returns:
            Its name, unit and range.

        Raises:
            KeyError: There is no such channel.
        """
        entry = self.channels[name]
        return Channel(name=name, unit=entry.unit, low=entry.low, high=entry.high)

    def unit_name(self, unit: str) -> str:
        """Return the UCUM name of a unit as people write it; the text itself where it is not known.

        Args:
            unit: For example ``"mmHg"`` or ``"°C"``.

        Returns:
            For example ``"mm[Hg]"`` or ``"Cel"``.
        """
        return self._unit_names.get(unit.strip().casefold(), unit.strip())

    def convert(self, channels: pd.Series, units: pd.Series, values: np.ndarray) -> Converted:
        """Bring values to their channels' canonical units and compare them with the plausible ranges.

        A value that is implausible in its declared unit and plausible in one that is often typed in its place
        (°C for °F) is taken in that one and marked as corrected.

        Args:
            channels: ``[n]`` channel names, all in the catalogue.
            units: ``[n]`` units as written in the source; empty where the source says none, then canonical.
            values: float ``[n]``.

        Returns:
            The converted values and what was found.
        """
        values = np.asarray(values, dtype=np.float64)
        channel_codes, channel_names = pd.factorize(channels)
        unit_codes, unit_texts = pd.factorize(units)
        pairs, inverse = np.unique(channel_codes * max(len(unit_texts), 1) + unit_codes, return_inverse=True)
        rows = [
            self.conversion(channel_names[pair // len(unit_texts)], unit_texts[pair % len(unit_texts)])
            for pair in pairs
        ]
        return apply_conversions(np.array(rows, dtype=np.float64).reshape(-1, 6)[inverse], values)

    def conversion(self, channel: str, unit_text: str) -> Conversion:
        """Return how values of a channel in a unit are converted, for ``apply_conversions``.

        Args:
            channel: A channel of the catalogue.
            unit_text: The unit as written; empty for the canonical one.

        Returns:
            Factor, offset, low, high, and the factor and offset of the unit that may have been meant; NaN where the
            unit is not known for the channel, or no other one is meant.
        """
        entry = self.channels[channel]
        unit = entry.unit if not unit_text.strip() else self.unit_name(unit_text)
        declared = entry.conversion(unit)
        if declared is None:
            return (np.nan, np.nan, entry.low, entry.high, np.nan, np.nan)
        others = [entry.conversion(name) for name in entry.confused_units if name != unit]
        other = next((conversion for conversion in others if conversion), None)
        meant = (other.factor, other.offset) if other and unit in entry.confused_units else (np.nan, np.nan)
        return (declared.factor, declared.offset, entry.low, entry.high, *meant)

    @classmethod
    def read(cls, path: Path) -> Catalogue:
        """Read a catalogue that ``write`` has written, such as the one that travels with a model.

        Args:
            path: The JSON file.

        Returns:
            The catalogue.
        """
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Write the catalogue as JSON.

        Args:
            path: The file to write.
        """
        path.write_text(json.dumps(self.content, ensure_ascii=False), encoding="utf-8")


@lru_cache(maxsize=1)
def load_catalogue() -> Catalogue:
    """Read ``channels.yaml`` once.

    Returns:
        The catalogue.
    """
    return Catalogue(yaml.safe_load(CATALOGUE_FILE.read_text(encoding="utf-8")))
