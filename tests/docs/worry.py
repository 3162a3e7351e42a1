"""When to worry about each metric: the last column of ``docs/metrics.md``. A test wants an entry for each metric."""

from __future__ import annotations

from typing import Final

WORRY: Final[dict[str, str]] = {
    # --- both services
    "kubeweir_certificate_expires_seconds": (
        "Below a week (WeirCertificateExpires): once it is 0, Kafka refuses the service; where `certificate` is "
        "`metrics`, scrapers refuse the port."
    ),
    "kubeweir_kafka_credentials_unusable": (
        "1 for 5 minutes (WeirCredentialsUnusable): renewed files are incomplete or wrong. The log says which; clients "
        "keep the earlier ones."
    ),
    "kubeweir_ready": "0 for 5 minutes (WeirNotReady): `/readyz` says why in words.",
    "kubeweir_build_info": "More than one version for longer than an upgrade takes: a roll-out hangs.",
    "kubeweir_health_closed_connections_total": (
        "Rises steadily: somebody holds connections to the metrics port, or a scraper is slow. Firewall the port."
    ),
    "process_cpu_seconds_total": "A rate of 1 for minutes: one core is all that a Python process has.",
    "process_max_fds": "Never by itself.",
    "process_open_fds": "Near process_max_fds.",
    "process_resident_memory_bytes": "Near the container's limit (deploy/kubernetes: probe 1 GiB, workers 3 GiB).",
    "process_start_time_seconds": "Changes often: the process restarts; its log says why.",
    "process_virtual_memory_bytes": "Never by itself.",
    # --- the probe
    "kubeweir_probe_acked_batches_total": "Stands still while kubeweir_probe_batches_total rises: Kafka takes nothing.",
    "kubeweir_probe_acked_bytes_total": "As kubeweir_probe_acked_batches_total.",
    "kubeweir_probe_attached_pods": "Less than the pods of the node that are not on the host's network.",
    "kubeweir_probe_clock_offset_seconds": "Above 0.25 or below -0.25 (WeirClockWrong): set the node's clock by NTP.",
    "kubeweir_probe_clock_offset_uncertainty_seconds": "Above 1: Kafka answers too slowly to tell.",
    "kubeweir_probe_batches_total": (
        "Stands still for longer than WEIR_HEARTBEAT: the probe appends nothing to its spool."
    ),
    "kubeweir_probe_closed_interface": (
        "There for longer than a pod takes to start: its pod has no network. `address_conflict` is an attack, or an "
        "address that was given twice."
    ),
    "kubeweir_probe_cni_requests_total": (
        "Any result but `ok` rises (WeirPodsRefused): pods of the node do not start, or start without policy "
        "(`let_through`). The log says why and what to do."
    ),
    "kubeweir_probe_cni_seconds_total": "Above a second a request: policy is installed slowly, or the watch is late.",
    "kubeweir_probe_borrowed_connections": "Never by itself; who has most loses first when all are lent.",
    "kubeweir_probe_connection_evictions_total": "Rises for a pod that does not scan: raise WEIR_POD_CONNECTIONS.",
    "kubeweir_probe_damaged_state_files_total": (
        "Any increase (WeirStateDamaged): a disk, or a program that writes where only the probe should; the log says "
        "what was lost."
    ),
    "kubeweir_probe_dropped_address_intervals_total": (
        "Any increase: workers may not name a pod. `queue_full`: Kafka was away for long while many pods came and went."
    ),
    "kubeweir_probe_identities": "Above 4096: selectors overlap at random, and the maps fill. The log says so.",
    "kubeweir_streams_limited_verdicts_total": "Rises: a namespace has more connections or denials than are logged.",
    "kubeweir_streams_cut_verdicts_total": (
        "`logging`: never by itself, because NetworkLogging or a setting says what is not logged. `limit` rises: as "
        "kubeweir_streams_limited_verdicts_total."
    ),
    "kubeweir_probe_cut_verdicts_total": (
        "`logging`: never by itself, because NetworkLogging or WEIR_LOGGING says what is not logged. `limit` rises, "
        "and you need these verdicts: raise WEIR_LIMIT_ALLOWED or WEIR_LIMIT_DENIED."
    ),
    "kubeweir_probe_invalid_network_logging": (
        "1 for 5 minutes (WeirNetworkLoggingInvalid): the object NetworkLogging is not valid, and nothing validates "
        "it; `/readyz` says what is wrong."
    ),
    "kubeweir_probe_logging": "Not what NetworkLogging or WEIR_LOGGING asks for: `/readyz` says why.",
    "kubeweir_probe_suspicious_annotations": (
        "Above 0: an annotation about logging has another value than `true`, such as `True`; `/readyz` names it."
    ),
    "kubeweir_probe_incomplete_pod": (
        "Any for 5 minutes (WeirPodsClosed): its policies outgrow a map; `/readyz` names policies and map."
    ),
    "kubeweir_probe_kafka_refusals_total": "Rises: `/readyz` names the missing right. Nothing is lost meanwhile.",
    "kubeweir_probe_kept_policies": "Above 0 for 5 minutes (WeirPoliciesKept); `/readyz` names them.",
    "kubeweir_probe_kernel_events_total": "See the events below this table.",
    "kubeweir_probe_kept_interface": "There longer than a grace period: a deleted pod runs on, or moved its address.",
    "kubeweir_probe_size": "It differs between nodes of one kind: one did not reach the API server at its first start.",
    "kubeweir_probe_lookups_total": '`failed` rises: see "An older connection breaks" in troubleshooting.',
    "kubeweir_probe_lost_verdicts_total": "Any increase (WeirVerdictsLost): records are missing from the log.",
    "kubeweir_probe_map_capacity_entries": "Never by itself: it is a setting.",
    "kubeweir_probe_map_entries": "Above 0.9 of the capacity (WeirPolicyMapNearlyFull); the log warns from 0.8.",
    "kubeweir_probe_last_success_age_seconds": (
        "`produce` above twice WEIR_HEARTBEAT: Kafka takes no batches (WeirCallsFail after 5 minutes above 300). "
        "`interval` is high while no pod comes or goes. `watch` above 300: as kubeweir_probe_watch_age_seconds."
    ),
    "kubeweir_probe_oldest_unacknowledged_seconds": (
        "Above 300 for 5 minutes (WeirProbeBehind): Kafka does not acknowledge. `/readyz` says so from WEIR_STALL on."
    ),
    "kubeweir_probe_other_datapath": (
        'Any: with `enforces="no"` the probe does nothing on that node. `/readyz` says what to do.'
    ),
    "kubeweir_probe_refused_objects": (
        "Above 0 for 5 minutes (WeirObjectsRefused): a policy is not enforced as written."
    ),
    "kubeweir_probe_ring_capacity_verdicts": "Never by itself: it is a setting.",
    "kubeweir_probe_ring_unread_verdicts": "Above half of the capacity for a minute (WeirRingNearlyFull).",
    "kubeweir_probe_spool_batches": "Rises for minutes: Kafka does not acknowledge.",
    "kubeweir_probe_spool_bytes": "Above half of the capacity (WeirSpoolFilling): a full spool gives up allows.",
    "kubeweir_probe_spool_capacity_bytes": "Never by itself: it is a setting.",
    "kubeweir_probe_unattached_pods": "Above 0 for 15 minutes (WeirPodsWaiting): those pods are not under policy.",
    "kubeweir_probe_unenforced_interface": "Any: what the pod sends and receives there, no policy judges.",
    "kubeweir_probe_unenforced_pod": "As kubeweir_probe_unattached_pods, and says which.",
    "kubeweir_probe_verdicts_total": "Stands still while pods open connections.",
    "kubeweir_probe_watch_age_seconds": "Above 300 (WeirWatchStale): the last known policy stays in force.",
    # --- all roles of weir-streams
    "kubeweir_streams_group_lag_records": "As kubeweir_streams_group_lag_seconds.",
    "kubeweir_streams_group_lag_seconds": (
        "Above 300 for 5 minutes (WeirGroupLate): its records come late. `/readyz` says if it makes no progress."
    ),
    "kubeweir_streams_last_success_age_seconds": (
        "`fetch`, `produce`, `write`, `commit` above 60 while kubeweir_streams_group_lag_records is above 0: that call "
        "does not work (WeirCallsFail after 5 minutes in which `fetch` or `commit` is above 300). Without lag there is "
        "nothing to do. `watch` above 300: as kubeweir_streams_watch_age_seconds."
    ),
    # --- the enricher
    "kubeweir_streams_address_interval_records_total": "Never by itself.",
    "kubeweir_streams_bad_address_interval_records_total": (
        "Any increase: a probe of another version, or a stranger who writes."
    ),
    "kubeweir_streams_batches_total": "Stands still while probes send.",
    "kubeweir_streams_dead_letters_total": "Any increase (WeirDeadLetters): read the headers on kubeweir.dead.",
    "kubeweir_streams_expired_batches_total": (
        "Any increase (WeirVerdictsMissing): workers were behind for longer than a day."
    ),
    "kubeweir_streams_foreign_records_total": (
        "Rises although no other cluster shares these topics: WEIR_CLUSTER differs between probes and workers."
    ),
    "kubeweir_streams_refused_address_intervals_total": (
        "Any increase: somebody writes address intervals in another node's name. The log says which pod and node."
    ),
    "kubeweir_streams_dropped_address_intervals_total": (
        "Any increase: a node has more short-lived pods than there is room for, or its probe publishes pods that never "
        "were. Peers of late verdicts stay without a name."
    ),
    "kubeweir_streams_gap_verdicts_total": (
        "Any increase (WeirVerdictsMissing): verdicts never came, and no probe counted them."
    ),
    "kubeweir_streams_clock_offset_seconds": "A node is there: its clock is wrong. Names are corrected, times are not.",
    "kubeweir_streams_refused_clock_offsets_total": "Any increase: a node's clock is off by a day, or lies.",
    "kubeweir_streams_ended_connections_total": "Stands still with WEIR_ENDS=1 while connections are logged.",
    "kubeweir_streams_lost_ends_total": (
        "Any increase of another reason than `uncertain`: [what each reason means](ends.md#reports-that-are-lost)."
    ),
    "kubeweir_streams_unknown_gaps_total": (
        "Any increase but the first after an upgrade (WeirGapUnknown): a worker may not read or write checkpoints, or "
        "offsets were set."
    ),
    # --- the role web
    "kubeweir_web_skipped_records_total": "Any: somebody else writes to the topic of flows: who has the right to?",
    "kubeweir_web_cut_views_total": "Rises steadily: browsers on a slow line; let them filter.",
    "kubeweir_web_live_views": "Near 64: more are refused.",
    "kubeweir_web_refused_requests_total": (
        "`503` rises: Kafka or the API server does not answer, or too many ask about long times. `401` rises: tokens "
        "have expired, or somebody tries some."
    ),
    "kubeweir_streams_pairs_counted_verdicts_total": (
        "Stands still with WEIR_PAIRS=1 while kubeweir_streams_read_verdicts_total rises."
    ),
    "kubeweir_streams_pairs_missed_verdicts_total": (
        "failed rises: report it, with the log. late rises: a probe was cut off for a day, or a node's clock is wrong."
    ),
    "kubeweir_streams_pairs_missed_batches_total": (
        "Any increase (WeirPairsMissed): a worker ended while the topic of pairs could not be written. Sums of these "
        "hours are too low."
    ),
    "kubeweir_streams_pairs_folded_combinations_total": (
        "workload or worker rises: somebody scans, or WEIR_PAIRS_LIMIT is too low for this cluster."
    ),
    "kubeweir_streams_pairs_written_records_total": "Stands still while verdicts are counted: see the failed writes.",
    "kubeweir_streams_pairs_failed_writes_total": (
        "Rises for minutes: /readyz says why. Counts are kept in memory, and a worker that ends loses them."
    ),
    "kubeweir_streams_pairs_behind_seconds": (
        "Above 600 for 10 minutes (WeirPairsBehind): hours are not complete, and after a day they stay so."
    ),
    "kubeweir_streams_pairs_restarts_total": (
        "More than 5 an hour (WeirPairsRestarting) without rebalances or restarts of Kafka: the log says why."
    ),
    "kubeweir_streams_pairs_bytes": "Above 300 MB: lower WEIR_PAIRS_LIMIT, or add workers.",
    "kubeweir_streams_heartbeats_total": "Stands still while a probe has no traffic: it is dead or cut off.",
    "kubeweir_streams_in_flight_bytes": "At WEIR_IN_FLIGHT_BYTES for minutes: Kafka acknowledges slowly.",
    "kubeweir_streams_in_flight_verdicts": "At WEIR_IN_FLIGHT_VERDICTS for minutes: Kafka acknowledges slowly.",
    "kubeweir_streams_lag_batches": "Their sum above 1,000 for 10 minutes (WeirStreamsBehind): add workers.",
    "kubeweir_streams_lost_verdicts_total": "Any increase: verdicts are missing; the reason says why.",
    "kubeweir_streams_pending_bytes": "At WEIR_PENDING_BYTES: the oldest go out with fewer names.",
    "kubeweir_streams_pending_verdicts_total": (
        "Outcomes late or full rise steadily: names come too late from the API server."
    ),
    "kubeweir_streams_read_verdicts_total": "Stands still while batches rise: only heartbeats come.",
    "kubeweir_streams_records_total": "Its rate is below that of kubeweir_streams_read_verdicts_total.",
    "kubeweir_streams_kept_policies": "As kubeweir_probe_kept_policies: the role goes on with the last known policies.",
    "kubeweir_streams_refused_objects": "Above 0 for 5 minutes (WeirObjectsRefused).",
    "kubeweir_streams_retried_records_total": "Rises steadily: a broker refuses batches; see the dead letters.",
    "kubeweir_streams_routed_records_total": (
        "Outcomes not_allowed or limit rise: tenants are missing from the route's list."
    ),
    "kubeweir_streams_verdict_subjects_over_limit_total": (
        "Any increase (WeirVerdictLabelsFull): raise WEIR_VERDICTS_LIMIT."
    ),
    "kubeweir_streams_verdicts_total": "Denies rise: the records and the alerts say whose.",
    "kubeweir_streams_watch_age_seconds": "Above 300 (WeirWatchStale): names may be old or missing.",
    # --- alerts
    "kubeweir_streams_alerts_counted_total": "bad_records or bad_deltas rise: something else writes to these topics.",
    "kubeweir_streams_alerts_events_total": "evicted_groups or refused_groups rise: raise WEIR_ALERT_GROUPS.",
    "kubeweir_streams_alerts_firing": "It is what the rules are for.",
    "kubeweir_streams_alerts_groups": "At WEIR_ALERT_GROUPS: further groups evict quiet ones.",
    "kubeweir_streams_alerts_lag_records": "Above 100,000 for 5 minutes (WeirAlertsBehind): late records fire nothing.",
    "kubeweir_streams_alerts_restarts_total": "More than a few an hour without rule changes or rebalances.",
    # --- Hubble's API
    "kubeweir_streams_hubble_flows_total": "Never by itself.",
    "kubeweir_streams_hubble_lost_flows_total": "Rises: verdicts are lost, or a client is slower than retention.",
    "kubeweir_streams_hubble_refused_total": (
        "`unavailable` rises: Kafka cannot be read. `resource_exhausted`: more clients than WEIR_HUBBLE_STREAMS, or "
        "answers that are too large. `invalid_argument`: a client asks for what records do not have; the log says what."
    ),
    "kubeweir_streams_hubble_streams": "At WEIR_HUBBLE_STREAMS: further clients are refused.",
    # --- the journal
    "kubeweir_streams_journal_bad_entries_total": (
        "Any increase (WeirJournalDoubtful): something else writes to the journal."
    ),
    "kubeweir_streams_journal_behind_seconds": "Above 60 for 2 minutes (WeirJournalBehind): the journal gets a gap.",
    "kubeweir_streams_journal_entries_total": (
        "`gap` rises without a restart: what policy said in that time is not known. `version` by hundreds a minute: "
        "something changes objects without need, and the topic grows."
    ),
    "kubeweir_streams_journal_lag_records": "Rises: the writer may write, and cannot read.",
    "kubeweir_streams_journal_refused_states_total": ("Any increase (WeirJournalDoubtful): the log names the object."),
    "kubeweir_streams_journal_restarts_total": "More than a few an hour without rebalances.",
    "kubeweir_streams_journal_states": "Never by itself.",
    "kubeweir_streams_journal_writer": "No worker has 1 for 2 minutes (WeirJournalBehind).",
    # --- sinks
    "kubeweir_streams_sink_failures_total": "Rises for 10 minutes (WeirSinkFailing): the destination is away.",
    "kubeweir_streams_sink_foreign_records_total": "Never by itself: other clusters share the topic.",
    "kubeweir_streams_sink_lag_records": "Above 100,000 for 15 minutes (WeirSinkBehind).",
    "kubeweir_streams_sink_records_total": "Stands still while its topic gets records.",
    "kubeweir_streams_lost_dead_letters_total": "Any increase: the log has the key and the reason of each.",
    "kubeweir_streams_sink_refused_total": "Any increase (WeirDeadLetters): the destination refuses them permanently.",
    "kubeweir_streams_sink_suppressed_records_total": "Never by itself: Events are few on purpose.",
}

KERNEL_EVENTS: Final[dict[str, tuple[str, str]]] = {
    "ring_full": ("Verdicts of allowed connections lost because the ring buffer was full.", "Any increase."),
    "deny_windows_full": ("Denied packets that no deny window could count.", "Any increase: raise WEIR_DENIED_FLOWS."),
    "deferred": ("First denies that found the ring full; they come with their window.", "Rises steadily."),
    "aggregated": ("Denied packets that were counted without addresses.", "A flood: look for `aggregated` records."),
    "unparsable": ("Packets dropped because they cannot be parsed.", "Rises: somebody sends broken packets."),
    "not_ip": ("Packets dropped because they are neither IP nor ARP.", "Pods need another protocol."),
    "flooded": ("Packets dropped because they are not for this pod (a bridge floods).", "Never by itself."),
    "fragment_dropped": ("Later fragments of a denied first fragment.", "Never by itself."),
    "connections_full": (
        "Connections denied because they could not be remembered.",
        "Any increase: raise WEIR_CONNECTIONS.",
    ),
    "evictions": (
        "Connections evicted before they expired, because a pod has used up its share.",
        "Rises: a pod scans, or needs a higher WEIR_POD_CONNECTIONS or WEIR_CONNECTIONS.",
    ),
    "fragment_evictions": (
        "First fragments that were forgotten within a second, because a pod has used up its share.",
        "Rises for a pod that should send so many fragments: raise WEIR_FRAGMENTS.",
    ),
    "cut_allowed": (
        "Allowed connections that were not logged on purpose ([logging](logging.md)).",
        "Never by itself.",
    ),
    "cut_denied": (
        "Denied packets and audited connections that were not logged on purpose.",
        "Never by itself; `WEIR_ALERTS_FEED=all` keeps them for alerts.",
    ),
    "decided": (
        "Decisions that a verdict is due for: allowed and audited connections, and denied packets.",
        "Never by itself; [weir status](status.md) says whether each of them is accounted for.",
    ),
    "written": ("Decisions that the verdicts in the ring buffer count.", "Never by itself."),
    "ring_verdicts": ("Verdicts written to the ring buffer.", "Never by itself."),
    "ends_lost": (
        "Reports of connections (`WEIR_ENDS`) that their ring buffer had no room for.",
        "Any increase: raise WEIR_RING_BYTES, of which it has a quarter.",
    ),
    "ends_unplaced": (
        "Reports of connections (`WEIR_ENDS`) that are lost because their connection got no place in the table, or was "
        "opened to a Service during a takeover by a probe with another table.",
        "An increase that is not just after a restart of the probe: look at `connections_full` and `evictions`.",
    ),
    "ends_uncertain": (
        "Reports of connections (`WEIR_ENDS`) that were withheld because processors met at their place.",
        "Never by itself.",
    ),
    "limited_allowed": (
        "Allowed connections that were not logged because of `WEIR_LIMIT_ALLOWED`.",
        "Rises, and you need each of them: raise the limit.",
    ),
    "limited_denied": (
        "Denied packets and audited connections that were not logged because of `WEIR_LIMIT_DENIED`.",
        "Rises: somebody scans, or raise the limit.",
    ),
    "neighbour_dropped": (
        "ARP and neighbour discovery dropped: too long, or about another's address.",
        "Rises: a pod claims its neighbours' addresses.",
    ),
    "foreign_frame": (
        "Frames of pods dropped: not from the link-layer address of the pod's own interface, or with a VLAN tag.",
        "Rises: a pod sends in another's name, or needs `WEIR_POD_FRAMES=any`.",
    ),
    "encapsulation": (
        "Encapsulation (VXLAN, IPIP and others) from pods to nodes, dropped.",
        "Rises: a pod tries to get around policy, or needs `WEIR_ENCAPSULATION=open`.",
    ),
    "unknown_flow": (
        "Packets dropped because they continue a connection that is not known (reason `unknown_flow`).",
        "Rises steadily: somebody sends packets without a handshake.",
    ),
    "lookups_spared": (
        "Mid-flow packets whose connection was not looked up: their flow was looked up less than a second ago, or "
        "their sender has used up its 64 look-ups a second.",
        "As unknown_flow.",
    ),
}
"""Label ``event`` of ``kubeweir_probe_kernel_events_total``: what it counts, and when to worry."""
