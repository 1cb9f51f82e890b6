"""The names of the test cases that other suites have for the framework: Django 6.1's, and those of its database backend.

The latter, django-tasks-db, is the backend that the framework's authors keep beside it, with workers of its own.
"""

from __future__ import annotations

from typing import Final

__all__ = ["CASES", "ELSEWHERE"]

_NAMES: Final = {
    "TaskTestCase": """
        using_correct_backend task_decorator enqueue_task enqueue_task_async enqueue_with_invalid_argument
        aenqueue_with_invalid_argument using_priority using_queue_name using_run_after using_unknown_backend
        using_missing_backend using_creates_new_instance chained_using refresh_result naive_datetime invalid_priority
        unknown_queue_name call_task call_task_async call_async_task call_async_task_sync get_result get_result_async
        get_missing_result get_incorrect_result get_incorrect_result_async invalid_function get_backend name
        module_path pickle_task unpickle_arbitrary_string unpickle_non_task_object pickle_task_result no_backends
        task_error_invalid_exception task_error_unknown_module takes_context_without_taking_context
        run_after_in_decorator
    """,
    "DummyBackendTestCase": """
        using_correct_backend enqueue_task enqueue_task_async get_result get_result_async refresh_result
        refresh_result_async get_missing_result enqueue_logs errors validate_disallowed_async_task check takes_context
        clear validate_on_enqueue validate_on_aenqueue
    """,
    "DummyBackendTransactionTestCase": "doesnt_wait_until_transaction_commit_by_default",
    "ImmediateBackendTestCase": """
        using_correct_backend enqueue_task enqueue_task_async catches_exception throws_keyboard_interrupt
        complex_exception complex_return_value result result_async cannot_get_result cannot_refresh_result
        cannot_pass_run_after enqueue_logs failed_logs successful_task_no_none_in_logs takes_context context
        validate_on_enqueue validate_on_aenqueue
    """,
    "ImmediateBackendTransactionTestCase": "doesnt_wait_until_transaction_commit_by_default",
    "CustomBackendTestCase": """
        using_correct_backend enqueue_async_task_on_non_async_backend backend_does_not_support_priority options
        no_enqueue
    """,
    "CustomTaskTestCase": """
        custom_task_default_values custom_task_with_custom_values custom_task_with_standard_and_custom_values
        custom_task_invalid_kwarg
    """,
    "DatabaseBackendTestCase": """
        using_correct_backend enqueue_task enqueue_task_async get_result get_result_async refresh_result
        refresh_result_async get_missing_result async_get_missing_result invalid_uuid async_invalid_uuid
        invalid_task_path missing_task_path task_name check database_backend_app_missing priority_range_check
        doesnt_wait_until_transaction_commit enqueue_logs index_scan_for_ready run_after_tz
        run_after_null_0016_migration validate_on_enqueue validate_on_aenqueue custom_id_function unknown_id_function
        postgres_db_id_function postgres_id_function_expression
    """,
    "DatabaseBackendWorkerTestCase": """
        run_enqueued_task batch_processes_all_tasks no_tasks doesnt_process_different_queue process_all_queues
        failing_task complex_exception complex_return_value doesnt_process_different_backend unknown_backend
        incorrect_backend negative_interval infinite_interval fractional_interval negative_max_tasks too_long_worker_id
        empty_worker_id run_after run_after_priority verbose_logging invalid_task_path missing_task_path
        worker_doesnt_exit worker_with_locked_rows max_tasks takes_context context task_import_string
    """,
    "DatabaseTaskResultTestCase": """
        cross_connection locks_tasks locks_tasks_sqlite locks_tasks_filtered locks_tasks_filtered_sqlite lock_no_rows
        get_locked_with_locked_rows
    """,
    "ConnectionExclusiveTranscationTestCase": """
        non_sqlite old_django_requires_manual_transaction explicit_transaction exclusive_transaction
    """,
    "DatabaseBackendPruneTaskResultsTestCase": """
        prunes_tasks doesnt_prune_new_tasks doesnt_prune_running_tasks only_prunes_specified_queue prune_all_queues
        min_age failed_min_age dry_run unknown_backend incorrect_backend negative_age
    """,
    "DatabaseWorkerProcessTestCase": """
        run_subprocess interrupt_no_tasks interrupt_signals repeat_ctrl_c kill system_exit_task keyboard_interrupt_task
        multiple_workers
    """,
    "CompatTestCase": "compat_has_django_task",
}

CASES: Final = frozenset(f"{suite}.{name}" for suite, names in _NAMES.items() for name in names.split())
"""Suite and case, without ``test_``."""

_KEEPS_NONE = "of a backend that keeps no results and runs at once; this one does the contrary"
_OF_THE_BASE = "of the framework's own base class"
_OF_THE_COMMAND = "of a command for workers; here there is neither"
_OF_THE_LOCKS = "of how workers share rows; that a job is claimed once is for the stores' contract"
_OF_THE_TABLE = "of a table of its own"

ELSEWHERE: Final = {
    "ImmediateBackendTestCase.cannot_get_result": _KEEPS_NONE,
    "ImmediateBackendTestCase.cannot_refresh_result": _KEEPS_NONE,
    "ImmediateBackendTestCase.cannot_pass_run_after": _KEEPS_NONE,
    "CustomBackendTestCase.no_enqueue": _OF_THE_BASE,
    "CompatTestCase.compat_has_django_task": "of a module of that package",
    **dict.fromkeys(
        (
            "DatabaseBackendTestCase.task_name",
            "DatabaseBackendTestCase.index_scan_for_ready",
            "DatabaseBackendTestCase.run_after_null_0016_migration",
        ),
        _OF_THE_TABLE,
    ),
    **dict.fromkeys(
        (
            f"DatabaseBackendWorkerTestCase.{name}"
            for name in (
                "no_tasks", "unknown_backend", "incorrect_backend", "negative_interval", "infinite_interval",
                "fractional_interval", "negative_max_tasks", "too_long_worker_id", "empty_worker_id", "verbose_logging",
                "max_tasks",
            )
        ),
        _OF_THE_COMMAND,
    ),
    **dict.fromkeys(
        (
            f"DatabaseBackendPruneTaskResultsTestCase.{name}"
            for name in ("only_prunes_specified_queue", "dry_run", "unknown_backend", "incorrect_backend", "negative_age")
        ),
        "about options of a command; `manage.py backjob cleanup` has none of them",
    ),
    **dict.fromkeys(
        (f"DatabaseWorkerProcessTestCase.{name}" for name in ("interrupt_no_tasks", "interrupt_signals", "repeat_ctrl_c")),
        "of how a worker stops; what a stopping or killed server does to jobs is for the tests of faults",
    ),
    "DatabaseWorkerProcessTestCase.kill": "a killed process is for the tests of faults: its job ends FAILED, not never",
    "DatabaseBackendWorkerTestCase.worker_with_locked_rows": _OF_THE_LOCKS,
    **{case: _OF_THE_LOCKS for case in CASES if case.startswith("ConnectionExclusive") or "lock" in case},
}  # fmt: skip
"""The cases that do not apply to this backend, and why."""
