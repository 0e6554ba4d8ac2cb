"""The fault plan: what can go wrong around a run, and the tests that make it happen. ``pytest --fault F6`` runs a row of it; with
``SVGBENCH_RELIABILITY=FILE`` each trial is noted for the table in ``reports/measured/reliability.md``.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One row: the fault in words, and its tests as ``file`` or ``file::words of the test's name``."""

    what: str
    tests: tuple[str, ...]


FAULTS = {
    "F1": Fault(
        "SIGKILL at a random time in each stage",
        (
            "stages/test_kills.py",
            "images/test_packing.py::at_random",
            "test_whole.py::killed_again",
            "machine/test_blocks.py::at_random",
        ),
    ),
    "F2": Fault(
        "SIGKILL at each point of a write: file, checkpoint, block, artifact, record",
        (
            "machine/test_resume.py::failpoint",
            "machine/test_writer.py::kill",
            "machine/test_files.py::killed",
            "images/test_packing.py::killed_anywhere",
            "lab/test_store.py::killed",
            "images/test_packing.py::laid_out",
            "lab/test_record.py::killed",
            "machine/test_blocks.py::killed_anywhere",
            "stages/test_dense.py::killed",
        ),
    ),
    "F3": Fault(
        "one training killed or stopped again and again",
        ("machine/test_resume.py::ten_times", "machine/test_resume.py::every_update", "machine/test_writer.py::ten_times"),
    ),
    "F4": Fault(
        "SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 from the first millisecond on",
        (
            "cli/test_signals.py",
            "machine/test_resume.py::a_signal",
            "images/test_packing.py::a_signal",
            "lab/test_processes.py::signal",
            "test_whole.py::termination",
        ),
    ),
    "F5": Fault("one of several ranks killed, stopped or frozen", ("machine/test_ranks.py::rank", "machine/test_blocks.py::one_rank")),
    "F6": Fault(
        "checkpoints, blocks, artifacts, manifests and records cut, changed, deleted or mixed",
        (
            "machine/test_resume.py::damaged",
            "machine/test_blocks.py::damaged",
            "lab/test_store.py::damage",
            "lab/test_store.py::changed_byte",
            "lab/test_store.py::another",
            "lab/test_record.py::damage",
            "lab/test_record.py::changed",
            "lab/test_record.py::mix",
            "images/test_packing.py::damaged",
            "test_whole.py::flipped",
        ),
    ),
    "F7": Fault(
        "the disk is full, or a file may not be so large",
        (
            "lab/test_faults.py::full_disk",
            "machine/test_resume.py::disk",
            "machine/test_writer.py::error",
            "images/test_packing.py::fills_up",
            "images/test_packing.py::too_little",
            "machine/test_files.py::cannot_be_written",
            "machine/test_blocks.py::too_little",
        ),
    ),
    "F8": Fault(
        "read-only directories, input/output errors",
        (
            "lab/test_faults.py::read_only",
            "machine/test_resume.py::error_of_the_disk",
            "machine/test_files.py::errors_of_the_disk",
            "lab/test_store.py::disk_s_errors",
            "lab/test_store.py::may_not_write",
            "machine/test_blocks.py::disk_that_fails",
        ),
    ),
    "F9": Fault(
        "images: cut, empty, of other formats, depths and modes, too large, not files",
        (
            "images/test_decode.py",
            "images/test_store.py::picture",
            "images/test_store.py::unreadable",
            "images/test_store.py::vanished",
        ),
    ),
    "F10": Fault("masks and depth maps: missing, of another size, out of range, empty", ("images/test_dense_sets.py",)),
    "F11": Fault(
        "NaN and infinity in losses, gradients, latents, statistics and samples",
        (
            "machine/test_training.py::not_finite",
            "machine/test_ranks.py::not_finite",
            "metrics/test_samples.py::nan",
            "metrics/test_elsewhere.py::nan",
        ),
    ),
    "F12": Fault(
        "many processes on one directory, some of them killed",
        (
            "lab/test_faults.py::twenty",
            "lab/test_record.py::many_at_once",
            "lab/test_store.py::second_process",
            "lab/test_processes.py::two_slots",
            "images/test_catalogue.py::two_processes",
        ),
    ),
    "F13": Fault(
        "hostile files: pickles, archives, bombs, paths out of a data set, modules in the working directory",
        (
            "weights/test_torch_files.py",
            "config/test_file_types.py",
            "lab/test_children.py",
            "images/test_sources.py::a_dataset_names",
        ),
    ),
    "F14": Fault("YAML: unknown keys, wrong types, aliases, tags, nesting, size", ("config/test_parse.py", "cli/test_outputs.py::yaml")),
    "F15": Fault(
        "configuration, files or data changed after the start, also under equal size and time",
        (
            "images/test_catalogue.py",
            "lab/test_execute.py::replaced",
            "machine/test_training.py::other_settings",
            "images/test_packing.py::changed",
        ),
    ),
    "F16": Fault("sample sets with missing, doubled or resized images", ("metrics/test_samples.py", "metrics/test_elsewhere.py::refused")),
    "F17": Fault(
        "counts that neither batches nor ranks divide",
        (
            "machine/test_training.py::ends_exactly",
            "machine/test_training.py::ranks_share",
            "machine/test_ranks.py::equal_one",
            "machine/test_blocks.py::number_of_ranks",
        ),
    ),
    "F18": Fault("metrics against closed forms and other implementations", ("agreement", "metrics/test_frechet.py", "test_mmseg.py")),
    "F19": Fault("deliberate faults in the path of a metric", ("metrics/test_mutations.py",)),
    "F20": Fault("closed, full or ASCII output; odd terminals and arguments", ("cli/test_outputs.py",)),
    "F21": Fault(
        "file systems without locks, with stale handles, late errors or late files",
        (
            "lab/test_faults.py::flush",
            "lab/test_faults.py::late",
            "lab/test_store.py::lacks",
            "lab/test_store.py::never_stays",
        ),
    ),
    "F22": Fault("Ray and SLURM: lost machines, preempted and failed jobs", ("lab/test_ray_tasks.py", "lab/test_slurm.py")),
    "F23": Fault("one cell of a grid fails always", ("test_whole.py::failing_cell", "lab/test_processes.py::failing_cell")),
}


def rows_of(test: str) -> list[str]:
    """The rows that a test belongs to, by its path below ``tests`` and its name: ``lab/test_store.py::test_...[case]``."""
    file, _, name = test.partition("::")
    return [row for row, fault in FAULTS.items() if any(_matches(pattern, file, name) for pattern in fault.tests)]


def _matches(pattern: str, file: str, name: str) -> bool:
    place, _, words = pattern.partition("::")
    return file.startswith(place) and words in name
