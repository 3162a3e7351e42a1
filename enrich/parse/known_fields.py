"""Which fields the kinds have that are read here, so that a mistyped one in a manifest is an error.

In a policy, ``form:`` for ``from:`` would open a pod to everybody. The API server refuses such a field if a client asks
for strict validation, as kubectl does. The names are those of the API (Kubernetes 1.37; ClusterNetworkPolicy v1alpha2,
its predecessors v1alpha1). Of policies all levels are known. Of the other kinds they are those at which something is
read: what is below any other field, and all of ``status``, is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from enrich.parse.cursor import InvalidObjectError, UnknownFieldError
from enrich.parse.spelling import no_such_field

Fields = Mapping[str, "Fields | None"]
"""The fields of an object, or of each element of a list, with the fields below each; None: they are not looked at."""


def _fields(names: str, **below: Fields) -> Fields:
    return {**dict.fromkeys(names.split()), **below}


_METADATA: Final = _fields(
    "annotations clusterName creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generateName "
    "generation labels managedFields name namespace resourceVersion selfLink uid",
    ownerReferences=_fields("apiVersion blockOwnerDeletion controller kind name uid"),
)
_PORT: Final = _fields("containerPort hostIP hostPort name protocol")
_CONTAINER: Final = _fields(
    "args command env envFrom image imagePullPolicy lifecycle livenessProbe name readinessProbe resizePolicy resources "
    "restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce terminationMessagePath "
    "terminationMessagePolicy tty volumeDevices volumeMounts workingDir",
    ports=_PORT,
)
_POD: Final = _fields(
    "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks "
    "ephemeralContainers evictionResponders hostAliases hostIPC hostNetwork hostPID hostUsers hostname "
    "hostnameOverride imagePullSecrets nodeName nodeSelector os overhead preemptionPolicy priority priorityClassName "
    "readinessGates resourceClaims resources restartPolicy runtimeClassName schedulerName schedulingGates "
    "schedulingGroup securityContext serviceAccount serviceAccountName setHostnameAsFQDN shareProcessNamespace "
    "subdomain terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes",
    containers=_CONTAINER,
    initContainers=_CONTAINER,
)
_NODE: Final = _fields("configSource externalID podCIDR podCIDRs podPreemptionPolicy providerID taints unschedulable")
_SERVICE: Final = _fields(
    "allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName externalTrafficPolicy "
    "healthCheckNodePort internalTrafficPolicy ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP "
    "loadBalancerSourceRanges publishNotReadyAddresses selector sessionAffinity sessionAffinityConfig "
    "trafficDistribution type",
    ports=_fields("appProtocol name nodePort port protocol targetPort"),
)
_SELECTOR: Final = _fields("matchLabels", matchExpressions=_fields("key operator values"))
_TEMPLATE: Final = _fields("", metadata=_METADATA, spec=_POD)
_JOB: Final = _fields(
    "activeDeadlineSeconds backoffLimit backoffLimitPerIndex completionMode completions managedBy manualSelector "
    "maxFailedIndexes parallelism podFailurePolicy podReplacementPolicy scheduling successPolicy suspend "
    "ttlSecondsAfterFinished",
    selector=_SELECTOR,
    template=_TEMPLATE,
)


def _controller(names: str) -> Fields:
    return _fields(names, selector=_SELECTOR, template=_TEMPLATE)


_PEER: Final = _fields(
    "", podSelector=_SELECTOR, namespaceSelector=_SELECTOR, ipBlock=_fields("cidr except")
)  # fmt: skip
_PORTS: Final = _fields("endPort port protocol")
_NETWORK_POLICY: Final = _fields(
    "policyTypes",
    podSelector=_SELECTOR,
    ingress=_fields("", ports=_PORTS, **{"from": _PEER}),
    egress=_fields("", ports=_PORTS, to=_PEER),
)

_PODS: Final = _fields("", namespaceSelector=_SELECTOR, podSelector=_SELECTOR)
_INGRESS_PEER: Final = _fields("", namespaces=_SELECTOR, pods=_PODS)
_EGRESS_PEER: Final = _fields("networks domainNames", namespaces=_SELECTOR, pods=_PODS, nodes=_SELECTOR)
_TRANSPORT: Final = _fields("", destinationPort=_fields("number", range=_fields("start end")))
_PROTOCOLS: Final = _fields("destinationNamedPort", tcp=_TRANSPORT, udp=_TRANSPORT, sctp=_TRANSPORT)
_CLUSTER_NETWORK_POLICY: Final = _fields(
    "tier priority",
    subject=_fields("", namespaces=_SELECTOR, pods=_PODS),
    ingress=_fields("name action", protocols=_PROTOCOLS, **{"from": _INGRESS_PEER}),
    egress=_fields("name action", protocols=_PROTOCOLS, to=_EGRESS_PEER),
)
_ADMIN_PORTS: Final = _fields(
    "namedPort", portNumber=_fields("port protocol"), portRange=_fields("end protocol start")
)  # fmt: skip
_BASELINE_PEER: Final = _fields("networks", namespaces=_SELECTOR, pods=_PODS, nodes=_SELECTOR)
_BASELINE_POLICY: Final = _fields(
    "",
    subject=_fields("", namespaces=_SELECTOR, pods=_PODS),
    ingress=_fields("name action", ports=_ADMIN_PORTS, **{"from": _INGRESS_PEER}),
    egress=_fields("name action", ports=_ADMIN_PORTS, to=_BASELINE_PEER),
)
_ADMIN_POLICY: Final = {
    **_BASELINE_POLICY,
    "priority": None,
    "egress": _fields("name action", ports=_ADMIN_PORTS, to=_EGRESS_PEER),
}
_LOG_CLASS: Final = _fields("log delegate")

_SPECS: Final[Mapping[str, Fields]] = {
    "Pod": _POD,
    "Namespace": _fields("finalizers"),
    "Node": _NODE,
    "Service": _SERVICE,
    "ReplicaSet": _controller("minReadySeconds replicas"),
    "Deployment": _controller("minReadySeconds paused progressDeadlineSeconds replicas revisionHistoryLimit strategy"),
    "StatefulSet": _controller(
        "minReadySeconds ordinals persistentVolumeClaimRetentionPolicy podManagementPolicy replicas "
        "revisionHistoryLimit serviceName updateStrategy volumeClaimTemplates"
    ),
    "DaemonSet": _controller("minReadySeconds revisionHistoryLimit updateStrategy"),
    "Job": _JOB,
    "CronJob": _fields(
        "concurrencyPolicy failedJobsHistoryLimit schedule startingDeadlineSeconds successfulJobsHistoryLimit suspend "
        "timeZone",
        jobTemplate=_fields("", metadata=_METADATA, spec=_JOB),
    ),
    "NetworkPolicy": _NETWORK_POLICY,
    "ClusterNetworkPolicy": _CLUSTER_NETWORK_POLICY,
    "AdminNetworkPolicy": _ADMIN_POLICY,
    "BaselineAdminNetworkPolicy": _BASELINE_POLICY,
    "NetworkLogging": _fields("", cluster=_fields("", allow=_LOG_CLASS, deny=_LOG_CLASS)),
}
KNOWN_FIELDS: Final[Mapping[str, Fields]] = {
    **{kind: _fields("apiVersion kind status", metadata=_METADATA, spec=spec) for kind, spec in _SPECS.items()},
    "EndpointSlice": _fields(
        "apiVersion kind addressType",
        metadata=_METADATA,
        endpoints=_fields("addresses conditions deprecatedTopology hints hostname nodeName targetRef zone"),
        ports=_fields("appProtocol name port protocol"),
    ),
}
"""The fields of each kind."""


def unknown_fields(document: Mapping[str, Any], kind: str) -> list[InvalidObjectError]:
    """Return an error for each field of an object that its kind does not have."""
    return list(_unknown("", document, KNOWN_FIELDS.get(kind)))


def _unknown(path: str, value: Any, known: Fields | None) -> Iterator[InvalidObjectError]:
    if known is None:
        return
    if isinstance(value, list):
        for index, element in enumerate(value):
            yield from _unknown(f"{path}[{index}]", element, known)
    elif isinstance(value, Mapping):
        for name, below in value.items():
            at = f"{path}.{name}" if path else str(name)
            if name not in known:
                yield UnknownFieldError(at, no_such_field(str(name), known))
            else:
                yield from _unknown(at, below, known[name])
