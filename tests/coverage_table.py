"""What of XenAPI's first VM class is covered, and by which test: the source of docs/api/coverage.md.

Rules: a cell names a test, as file::function below tests/, or says after a dash why there is none. Columns: the log keeps it
(or decides it); the wire has it, with real clients; libvirt's test driver acts on it; a real guest of QEMU's feels it.
tests/unit/test_coverage.py holds that every named test exists and that no field or message is left out.
"""

from typing import Final

COLUMNS: Final = ("stored or decided", "on the wire", "libvirt's test driver", "a real guest")
Cells = tuple[str, str, str, str]

_E2E: Final = "e2e/test_sdk_life_cycle.py::"
_LIVE: Final = "unit/test_vm_live.py::"
_LIVE_E2E: Final = "e2e/test_sdk_live.py::test_a_running_vm_is_changed_suspended_and_resumed"
_SUSPEND: Final = "unit/test_vm_suspend.py::"
_CONTRACT: Final = "contract/test_hypervisor_contract.py::"
_TUNING: Final = "contract/test_tuning_contract.py::"
_GUEST: Final = "contract/test_guest_reactions.py::"
_IMAGES: Final = "contract/test_suspend_contract.py::"
_XML: Final = "unit/test_domain_xml.py::"

_DISKS: Final = "unit/test_vm_disks.py::"
_CLONING: Final = "unit/test_vm_cloning.py::"

_RECORD: Final = _E2E + "test_a_created_vm_has_every_field_of_the_class_and_keeps_what_it_was_given"
_SETTER: Final = "unit/test_implied.py::test_every_setter_of_a_class_stores_what_it_is_given"
_CREATED: Final = "unit/test_vm_config.py::test_a_created_vm_is_halted_and_has_what_was_asked_for"
_STARTED: Final = "unit/test_vm_lifecycle.py::test_a_started_vm_runs_where_the_host_shows_it"
_GOES_TO_ITS_HOST: Final = (
    "unit/test_vm_lifecycle.py::test_an_operation_on_a_running_vm_goes_to_its_host"
)
_RUNS: Final = _CONTRACT + "test_a_started_domain_is_in_the_inventory_as_the_answer_said"
_BOOTS: Final = _GUEST + "test_a_plugged_in_cpu_is_counted_by_the_guest"
_BALLOON: Final = _GUEST + "test_the_balloon_takes_memory_from_the_guest_and_gives_it_back"
_STORY: Final = "e2e/test_lab_story.py::test_the_story_on_real_hosts"

_INERT: Final = "- does nothing to a guest, see vm-fields.md"
_POOLS: Final = "- the pool's own, no hypervisor sees it"
_NO_BOOT: Final = "- the driver boots nothing"
_XML_ONLY: Final = "- only its place in the definition is tested: "
_UNTESTED: Final = "- no test yet"
_ABSENT: Final = "- not in this version"

_NOTHING: Final = (_INERT, _INERT)
_POOL_ONLY: Final = (_POOLS, _POOLS)

FIELDS: Final[dict[str, Cells]] = {
    "uuid": (_CREATED, _RECORD, _RUNS, _BOOTS),
    "allowed_operations": (
        "unit/test_allowed.py::test_what_can_be_called_is_advertised_in_xenapis_order",
        _E2E + "test_what_is_advertised_is_what_is_valid",
        *_POOL_ONLY,
    ),
    "current_operations": (
        _STARTED,
        _E2E + "test_an_operation_under_way_is_shown_and_leaves_only_what_is_stronger",
        *_POOL_ONLY,
    ),
    "power_state": (
        _STARTED,
        _E2E + "test_a_paused_vm_stands_still_until_it_is_unpaused",
        _RUNS,
        _STORY,
    ),
    "name_label": (
        _SETTER,
        "e2e/test_sdk_refusals.py::test_names_come_back_as_they_were_given",
        _XML_ONLY + _XML + "test_titles_hold_no_control_characters",
        _UNTESTED,
    ),
    "name_description": (_SETTER, _RECORD, *_NOTHING),
    "user_version": (_SETTER, _RECORD, *_NOTHING),
    "is_a_template": (
        "unit/test_vm_config.py::test_a_halted_vm_becomes_a_template_and_a_template_a_vm",
        "e2e/test_sdk_refusals.py::test_a_template_is_not_started",
        *_POOL_ONLY,
    ),
    "suspend_VDI": ("- images are files, no VDIs", _RECORD, *_NOTHING),
    "resident_on": (
        _STARTED,
        _E2E + "test_a_started_vm_runs_on_a_host_and_its_record_says_so",
        _POOLS,
        _STORY,
    ),
    "affinity": ("unit/test_placement.py::test_affinity_comes_first", _RECORD, *_POOL_ONLY),
    "memory_static_max": (
        _LIVE + "test_static_bounds_change_while_halted_and_only_then",
        _RECORD,
        _XML_ONLY
        + _XML
        + "test_memory_is_the_ceiling_and_the_target_and_vcpus_the_ceiling_and_the_start",
        _BALLOON,
    ),
    "memory_dynamic_max": (
        _LIVE + "test_the_balloon_follows_and_then_the_settings",
        _RECORD,
        _TUNING + "test_the_balloon_follows_its_target",
        _BALLOON,
    ),
    "memory_dynamic_min": (
        _LIVE + "test_a_higher_minimum_is_reserved_from_the_promise_on_and_given_back_if_it_fails",
        _RECORD,
        *_POOL_ONLY,
    ),
    "memory_static_min": (
        "unit/test_placement.py::test_a_dynamic_value_is_clamped_into_the_static_range",
        _RECORD,
        *_POOL_ONLY,
    ),
    "VCPUs_params": (
        _LIVE + "test_scheduler_parameters_are_applied_and_then_stored",
        _RECORD,
        _TUNING + "test_a_weight_is_applied_and_a_bad_one_refused",
        _TUNING + "test_where_the_kernel_lends_no_cpu_cgroup_a_weight_is_not_allowed",
    ),
    "VCPUs_max": (
        "unit/test_vm_config.py::test_vcpus_max_is_only_set_when_halted_and_vcpus_at_startup_whenever",
        _RECORD,
        _TUNING + "test_more_vcpus_than_the_machine_has_places_for_are_refused",
        _BOOTS,
    ),
    "VCPUs_at_startup": (
        _LIVE + "test_vcpus_are_plugged_in_before_the_settings_and_metrics_say_so",
        _RECORD,
        _TUNING + "test_vcpus_are_plugged_in_while_it_runs",
        _BOOTS,
    ),
    "actions_after_shutdown": (
        "unit/test_reconcile.py::test_a_guest_that_is_to_restart_after_shutdown_starts_on_its_host",
        _RECORD,
        _POOLS,
        _UNTESTED,
    ),
    "actions_after_reboot": (
        "unit/test_reconcile.py::test_a_guest_that_is_to_end_at_reboot_is_halted",
        _RECORD,
        _XML_ONLY + _XML + "test_a_reboot_is_a_reset_in_place_or_an_end",
        _GUEST + "test_a_reset_boots_the_guest_anew_in_the_same_domain",
    ),
    "actions_after_crash": (
        "unit/test_reconcile.py::test_a_crash_does_what_the_vm_is_to_do_after_crashes",
        _RECORD,
        _XML_ONLY + _XML + "test_libvirt_never_restarts_a_crashed_guest_by_itself",
        _UNTESTED,
    ),
    "consoles": (_STARTED, _RECORD, "- the driver has none", _UNTESTED),
    "VIFs": (
        "unit/test_networks.py",
        _RECORD,
        _CONTRACT + "test_a_domain_has_the_network_interfaces_of_its_config",
        _UNTESTED,
    ),
    "VBDs": (
        _DISKS + "test_a_domain_has_the_vms_disks_in_the_order_of_their_devices",
        _RECORD,
        _XML_ONLY + _XML + "test_disks_keep_their_order_and_cdroms_get_a_bus_of_their_own",
        _UNTESTED,
    ),
    "crash_dumps": (_ABSENT, _RECORD, _ABSENT, _ABSENT),
    "VTPMs": (_ABSENT, _RECORD, _ABSENT, _ABSENT),
    "PV_bootloader": (_SETTER, _RECORD, *_NOTHING),
    "PV_kernel": (_SETTER, _RECORD, _NO_BOOT, _BOOTS),
    "PV_ramdisk": (_SETTER, _RECORD, _NO_BOOT, _BOOTS),
    "PV_args": (_SETTER, _RECORD, _NO_BOOT, _BOOTS),
    "PV_bootloader_args": (_SETTER, _RECORD, *_NOTHING),
    "PV_legacy_args": (_SETTER, _RECORD, *_NOTHING),
    "HVM_boot_policy": (_RECORD, _RECORD, *_NOTHING),
    "HVM_boot_params": (
        _SETTER,
        _RECORD,
        _XML_ONLY + _XML + "test_firmware_boots_in_the_order_of_the_letters",
        _UNTESTED,
    ),
    "platform": (_SETTER, _RECORD, *_POOL_ONLY),
    "PCI_bus": (_SETTER, _RECORD, *_NOTHING),
    "other_config": (
        "unit/test_vm_config.py::test_a_created_vm_has_a_mac_seed_that_a_retry_makes_again",
        _RECORD,
        *_POOL_ONLY,
    ),
    "domid": (_STARTED, _RECORD, _RUNS, _RUNS),
    "domarch": ("- never filled in", _RECORD, *_NOTHING),
    "last_boot_CPU_flags": (
        _SUSPEND + "test_a_cpu_that_lacks_what_the_guest_was_booted_with_is_refused_unless_forced",
        _RECORD,
        *_POOL_ONLY,
    ),
    "is_control_domain": ("- always false", _RECORD, *_POOL_ONLY),
    "metrics": (
        "unit/test_vm_config.py::test_a_created_vm_has_metrics_of_its_own",
        _RECORD,
        *_POOL_ONLY,
    ),
    "guest_metrics": (_ABSENT, _RECORD, _ABSENT, _ABSENT),
    "recommendations": (_SETTER, _RECORD, *_NOTHING),
}

_LOOKUPS: Final = (
    "unit/test_implied.py::test_objects_are_found_by_uuid_by_name_and_all_together",
    "e2e/test_sdk_refusals.py::test_vms_are_found_by_what_they_are",
    *_POOL_ONLY,
)
_PAUSE: Final = _CONTRACT + "test_pause_and_unpause_may_be_repeated"
_OFF: Final = _CONTRACT + "test_a_guest_that_powers_off_is_told_and_leaves_its_definition"
_GONE: Final = _CONTRACT + "test_a_destroyed_domain_is_gone_and_destroying_it_again_succeeds"
_POWER: Final = _GUEST + "test_the_power_trigger_is_felt_as_the_power_button"
_RESUMED: Final = (
    _IMAGES + "test_a_suspended_guest_comes_back_standing_still_under_a_new_incarnation",
    _GUEST + "test_a_resumed_guest_counts_on_where_it_was_suspended",
)

MESSAGES: Final[dict[str, Cells]] = {
    "get_record": (_LOOKUPS[0], _RECORD, *_POOL_ONLY),
    "get_by_uuid": _LOOKUPS,
    "get_by_name_label": _LOOKUPS,
    "get_all": _LOOKUPS,
    "get_all_records": _LOOKUPS,
    "create": (_CREATED, _RECORD, *_POOL_ONLY),
    "destroy": (
        "unit/test_vm_config.py::test_a_destroyed_vm_leaves_nothing",
        _E2E + "test_a_destroyed_vm_is_gone_with_all_that_was_its",
        *_POOL_ONLY,
    ),
    "clone": (
        _CLONING + "test_a_clone_is_a_new_vm_with_disks_of_its_own_on_a_common_base",
        _UNTESTED,
        *_POOL_ONLY,
    ),
    "copy": (_CLONING + "test_a_copy_shares_nothing", _UNTESTED, *_POOL_ONLY),
    "provision": (
        _CLONING + "test_a_template_is_provisioned_with_its_disks",
        _UNTESTED,
        *_POOL_ONLY,
    ),
    "start": (
        "unit/test_vm_lifecycle.py::test_start_chooses_the_host_that_has_most_room",
        _E2E + "test_a_started_vm_runs_on_a_host_and_its_record_says_so",
        _RUNS,
        _BOOTS,
    ),
    "start_on": (
        "unit/test_vm_lifecycle.py::test_start_on_promises_the_next_incarnation_on_that_host",
        _E2E + "test_start_on_starts_on_that_host",
        _RUNS,
        _STORY,
    ),
    "pause": (
        _GOES_TO_ITS_HOST,
        _E2E + "test_a_paused_vm_stands_still_until_it_is_unpaused",
        _PAUSE,
        _PAUSE,
    ),
    "unpause": (
        _GOES_TO_ITS_HOST,
        _E2E + "test_a_paused_vm_stands_still_until_it_is_unpaused",
        _PAUSE,
        _PAUSE,
    ),
    "clean_shutdown": (
        _GOES_TO_ITS_HOST,
        _E2E + "test_a_stopped_vm_is_halted_and_nowhere",
        _OFF,
        _POWER,
    ),
    "clean_reboot": (
        "unit/test_vm_lifecycle.py::test_a_rebooted_vm_is_a_new_incarnation_on_its_host",
        _E2E + "test_a_rebooted_vm_runs_in_a_new_domain_on_the_same_host",
        _OFF,
        _POWER,
    ),
    "hard_shutdown": (
        _GOES_TO_ITS_HOST,
        _E2E + "test_a_stopped_vm_is_halted_and_nowhere",
        _GONE,
        _STORY,
    ),
    "power_state_reset": (
        "unit/test_reconcile.py::test_vms_of_a_lost_host_stay_as_they_are",
        _E2E + "test_the_state_of_a_vm_on_a_living_host_is_not_reset",
        _POOLS,
        _STORY,
    ),
    "hard_reboot": (
        "unit/test_vm_lifecycle.py::test_a_rebooted_vm_is_a_new_incarnation_on_its_host",
        _E2E + "test_a_rebooted_vm_runs_in_a_new_domain_on_the_same_host",
        _GONE,
        _GONE,
    ),
    "suspend": (
        _SUSPEND + "test_a_suspend_is_true_once_the_host_has_saved_the_guest_and_ended_it",
        _LIVE_E2E,
        *_RESUMED,
    ),
    "resume": (
        _SUSPEND + "test_a_host_that_dies_before_the_log_has_the_domain_leaves_the_image",
        _LIVE_E2E,
        *_RESUMED,
    ),
    "resume_on": (
        _SUSPEND + "test_a_resume_runs_only_after_the_log_has_its_domain",
        _LIVE_E2E,
        *_RESUMED,
    ),
    "pool_migrate": (
        "unit/test_vm_migration.py",
        _E2E + "test_a_migrated_vm_goes_on_elsewhere_as_the_same_run",
        "- the driver cannot migrate: " + _CONTRACT + "test_what_cannot_migrate_says_so",
        _STORY,
    ),
    "set_VCPUs_number_live": (
        _LIVE + "test_vcpus_are_plugged_in_before_the_settings_and_metrics_say_so",
        _LIVE_E2E,
        _TUNING + "test_vcpus_are_plugged_in_while_it_runs",
        _BOOTS,
    ),
    "add_to_VCPUs_params_live": (
        _LIVE + "test_scheduler_parameters_are_applied_and_then_stored",
        _LIVE_E2E,
        _TUNING + "test_a_weight_is_applied_and_a_bad_one_refused",
        _TUNING + "test_where_the_kernel_lends_no_cpu_cgroup_a_weight_is_not_allowed",
    ),
    "set_memory_dynamic_max_live": (
        _LIVE + "test_the_balloon_follows_and_then_the_settings",
        _LIVE_E2E,
        _TUNING + "test_the_balloon_follows_its_target",
        _BALLOON,
    ),
    "set_memory_dynamic_min_live": (
        _LIVE + "test_the_balloon_follows_and_then_the_settings",
        _LIVE_E2E,
        _TUNING + "test_the_balloon_follows_its_target",
        _BALLOON,
    ),
    "send_sysrq": (
        _LIVE + "test_a_sysrq_key_reaches_the_host_and_changes_nothing_in_the_log",
        _LIVE_E2E,
        _TUNING + "test_keys_and_triggers_leave_the_domain_as_it_is",
        _GUEST + "test_a_sysrq_key_is_answered_by_the_guests_kernel",
    ),
    "send_trigger": (
        _LIVE + "test_a_trigger_reaches_the_host",
        _LIVE_E2E,
        _TUNING + "test_the_power_trigger_is_the_power_button",
        _GUEST + "test_an_nmi_is_received_by_the_guests_kernel",
    ),
    "get_boot_record": (
        _LIVE + "test_the_boot_record_has_the_settings_of_the_last_boot",
        _LIVE_E2E,
        *_POOL_ONLY,
    ),
    "assert_operation_valid": (
        "unit/test_allowed.py",
        _E2E + "test_what_is_advertised_is_what_is_valid",
        *_POOL_ONLY,
    ),
    "update_allowed_operations": (
        "unit/test_vm_config.py::test_recomputing_allowed_operations_only_checks_the_vm",
        _UNTESTED,
        *_POOL_ONLY,
    ),
    "get_allowed_VBD_devices": (
        _DISKS + "test_a_vbd_gets_the_lowest_free_device",
        _UNTESTED,
        *_POOL_ONLY,
    ),
    "get_allowed_VIF_devices": ("unit/test_networks.py", _UNTESTED, *_POOL_ONLY),
    "get_possible_hosts": (
        "unit/test_placement.py::test_clients_can_ask_for_all_of_it",
        _E2E + "test_a_vm_for_no_host_has_no_possible_hosts",
        *_POOL_ONLY,
    ),
    "assert_can_boot_here": (
        "unit/test_placement.py::test_clients_can_ask_for_all_of_it",
        _E2E + "test_a_host_promises_no_more_memory_than_it_has",
        *_POOL_ONLY,
    ),
}
