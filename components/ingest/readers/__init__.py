"""One reader a source format; ``read_source`` chooses by the settings."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import pandas as pd

from components.ingest.locations import SourceFiles, one_file
from components.ingest.patient_shard import PatientShard
from components.ingest.readers.export import export_patients, read_export
from components.ingest.readers.fhir import FhirPatients, list_fhir_patients, read_fhir
from components.ingest.readers.meds import meds_patients, read_meds
from components.ingest.readers.physionet2012 import physionet2012_patients, read_physionet2012
from components.ingest.readers.table_one import read_table_one, table_one_patients
from components.ingest.rejections import Rejections
from components.ingest.settings import FhirSource, MedsSource, PhysioNet2012Source, Source, TableOneSource
from components.ingest.source_tables import SourceTables
from data_schemas.channels import Catalogue


@dataclass
class OpenSource:
    """A source whose files are listed.

    Attributes:
        settings: Its settings.
        files: Its files.
        outcomes: The file of outcomes and its name, where the settings name one.
        people: All patients of a FHIR source, once they are listed.
    """

    settings: Source
    files: SourceFiles
    outcomes: tuple[SourceFiles, str] | None = None
    people: FhirPatients | None = None


def open_source(source: Source, stack: ExitStack) -> OpenSource:
    """List the files of a source, local or on S3.

    Args:
        source: Its settings.
        stack: Removes temporary copies when it closes.

    Returns:
        The source.

    Raises:
        InputError: It is not there.
    """
    outcomes = None
    if isinstance(source, PhysioNet2012Source) and source.outcomes:
        outcomes = one_file(source.outcomes, stack)
    return OpenSource(source, SourceFiles(source.path, stack), outcomes)


def list_patients(source: OpenSource, rejections: Rejections) -> pd.Series:
    """Return the keys of a source's patients without reading more than that takes.

    Args:
        source: The source.
        rejections: Takes the patients that cannot be used.

    Returns:
        Keys in the order of the source, as ``read_source`` of a single shard returns them.

    Raises:
        InputError: The source cannot be used.
    """
    settings, files = source.settings, source.files
    if isinstance(settings, PhysioNet2012Source):
        return physionet2012_patients(files, rejections)
    if isinstance(settings, FhirSource):
        source.people = list_fhir_patients(settings, files, rejections)
        return source.people.listed
    if isinstance(settings, MedsSource):
        return meds_patients(files)
    if isinstance(settings, TableOneSource):
        return table_one_patients(files, rejections)
    return export_patients(files, rejections)


def read_source(source: OpenSource, shard: PatientShard, catalogue: Catalogue, rejections: Rejections) -> SourceTables:
    """Read a shard of one source.

    Args:
        source: The source.
        shard: Whose rows to take.
        catalogue: Maps the source's codes to channels.
        rejections: Takes the rows that cannot be used.

    Returns:
        Its tables.

    Raises:
        InputError: The source cannot be used.
    """
    settings, files = source.settings, source.files
    if isinstance(settings, PhysioNet2012Source):
        return read_physionet2012(settings, files, source.outcomes, shard, catalogue, rejections)
    if isinstance(settings, FhirSource):
        return read_fhir(settings, files, source.people, shard, catalogue, rejections)
    if isinstance(settings, MedsSource):
        return read_meds(settings, files, shard, catalogue, rejections)
    if isinstance(settings, TableOneSource):
        return read_table_one(settings, files, shard, catalogue, rejections)
    return read_export(files, shard, catalogue, rejections)
