"""The JSON reports that the command line names: read, and merged into one."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from dataclasses import replace
import os

from pytest_tempres.cli.output import InputError
from pytest_tempres.leaks.baseline import Known
from pytest_tempres.leaks.model import Leak
from pytest_tempres.reports.json_report import parse
from pytest_tempres.reports.summary import SessionFacts
from pytest_tempres.reports.summary import Summary
from pytest_tempres.reports.wording import printable

__all__ = ["merge", "read_report", "shard_names"]

_Key = tuple[str, str, str, str]


def read_report(path: str) -> Summary:
    """Return the summary in the JSON report at *path*.

    :raises InputError: If it cannot be read, or is no report of this plugin that this version
        understands.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return parse(file.read())
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError:
        reason = "this is not JSON: it is not encoded as UTF-8"
    except ValueError as error:
        reason = str(error)
    raise InputError(printable(f"{path}: {reason}"))


def shard_names(paths: list[str]) -> list[str]:
    """Return a name for each report: its file name without the suffix, if that is unique."""
    names = [os.path.splitext(os.path.basename(path))[0] for path in paths]
    return [
        path if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)
    ]


def merge(shards: Mapping[str, Summary]) -> Summary:
    """Return one summary for all *shards*, which are named by their keys.

    The same leak in several shards is reported once. The name of its worker is that of its shards.
    """
    if len(shards) == 1:
        return next(iter(shards.values()))
    summaries = list(shards.values())
    leaks, hosts = _merge_leaks(shards)
    roots = [root for each in summaries for root in (each.root, *each.other_roots)]
    artifacts = [each.artifacts for each in summaries if each.artifacts is not None]
    kept = (kept._replace(worker=name) for name, each in shards.items() for kept in each.kept)
    return replace(
        summaries[0],
        session=_merge_sessions(shards),
        leaks=tuple(leaks),
        kept=tuple(kept),
        stale=_merge_stale(summaries, {leak.fingerprint for leak in leaks}),
        hosts=hosts,
        other_roots=tuple(roots[1:]),
        abandoned=tuple(root for each in summaries for root in each.abandoned),
        artifacts=artifacts[0] if len(artifacts) == 1 else None,
        gate_failed=any(each.gate_failed for each in summaries),
        leaks_fail=any(each.leaks_fail for each in summaries),
    )


def _merge_stale(summaries: Iterable[Summary], found: Collection[str]) -> tuple[Known, ...]:
    """Return the stale leaks without those that another shard has found."""
    stale = (known for each in summaries for known in each.stale)
    return tuple(dict.fromkeys(known for known in stale if known.fingerprint not in found))


def _merge_leaks(shards: Mapping[str, Summary]) -> tuple[list[Leak], dict[str, str]]:
    """Return the leaks, each of them once, and the hosts that they are on, by worker."""
    names: dict[_Key, list[str]] = {}
    most: dict[_Key, tuple[Summary, list[Leak]]] = {}
    for name, summary in shards.items():
        for key, leaks in _by_identity(summary).items():
            names.setdefault(key, []).append(name)
            if key not in most or len(leaks) > len(most[key][1]):
                most[key] = summary, leaks
    merged, hosts = [], {}
    for key, (summary, leaks) in most.items():
        for leak in leaks:
            worker, host = ", ".join(names[key]), summary.hosts.get(leak.entry.worker)
            if host is not None:
                worker = f"{worker} ({host})"
                hosts[worker] = host
            merged.append(leak._replace(entry=leak.entry._replace(worker=worker)))
    return merged, hosts


def _by_identity(summary: Summary) -> dict[_Key, list[Leak]]:
    groups: dict[_Key, list[Leak]] = {}
    for leak in summary.leaks:
        key = leak.fingerprint, leak.owner.kind, leak.owner.id, leak.status
        groups.setdefault(key, []).append(leak)
    return groups


def _merge_sessions(shards: Mapping[str, Summary]) -> SessionFacts:
    sessions = [each.session for each in shards.values()]

    def all_of(field: str) -> str:
        return ", ".join(dict.fromkeys(getattr(each, field) for each in sessions))

    return SessionFacts(
        id=all_of("id"),
        rootdir=sessions[0].rootdir,
        started=min(each.started for each in sessions),
        seconds=round(sum(each.seconds for each in sessions), 3),
        exit_status=max(each.exit_status for each in sessions),
        python=all_of("python"),
        pytest=all_of("pytest"),
        platform=all_of("platform"),
        workers=tuple(shards),
    )
