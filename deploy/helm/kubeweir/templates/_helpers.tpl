{{/* These templates render the same objects as deploy/kubernetes: tests/cluster/test_chart.py compares each of them. */}}

{{- define "kubeweir.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The image and how it is pulled, of each container. */}}
{{- define "kubeweir.imageFields" -}}
image: {{ include "kubeweir.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end -}}

{{- define "kubeweir.partOf" -}}
app.kubernetes.io/part-of: kubeweir
{{- end -}}

{{/*
Whether the cluster's API, or the value, says that the kinds of the Prometheus Operator are there. In a file of values, `on`
and `off` without quotes are true and false.
*/}}
{{- define "kubeweir.monitoring" -}}
{{- $monitoring := toString .Values.monitoring -}}
{{- if or (has $monitoring (list "on" "true")) (and (eq $monitoring "auto") (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) -}}
on
{{- end -}}
{{- end -}}

{{/* Argo CD and Flux do not delete an object with these annotations, although it is no longer in Git. */}}
{{- define "kubeweir.keep" -}}
argocd.argoproj.io/sync-options: Prune=false,Delete=false
kustomize.toolkit.fluxcd.io/prune: disabled
{{- end -}}

{{/* A value as text. Helm reads each number of a file as a float, and would write 1000000 as 1e+06. */}}
{{- define "kubeweir.plain" -}}
{{- if and (kindIs "float64" .) (eq . (floor .)) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* What both services read from their environment, as a JSON object of strings. */}}
{{- define "kubeweir.settings" -}}
{{- $values := .Values -}}
{{- $kafka := $values.kafka -}}
{{- $found := dict
  "WEIR_KAFKA" $kafka.servers
  "WEIR_KAFKA_PROTOCOL" $kafka.protocol
  "WEIR_PARTITIONS" (include "kubeweir.plain" $kafka.partitions)
  "WEIR_LOG_FORMAT" "json"
  "WEIR_ALERTMANAGER" (join "," $values.alertmanagers)
  "WEIR_CNI" (ternary "on" "off" $values.cni.enabled)
  "WEIR_PAIRS" "1" -}}
{{- if $kafka.ca -}}
{{- $_ := set $found "WEIR_KAFKA_CA" "/etc/kubeweir/kafka/ca.crt" -}}
{{- end -}}
{{- if $kafka.clientCertificate -}}
{{- $_ := set $found "WEIR_KAFKA_CERTIFICATE" "/etc/kubeweir/kafka/tls.crt" -}}
{{- $_ := set $found "WEIR_KAFKA_KEY" "/etc/kubeweir/kafka/tls.key" -}}
{{- end -}}
{{- if $values.pruneGuard -}}
{{- $_ := set $found "WEIR_PRUNE_GUARD" "true" -}}
{{- end -}}
{{- if $values.startupTaint -}}
{{- $_ := set $found "WEIR_STARTUP_TAINT" $values.startupTaint -}}
{{- end -}}
{{- if $values.hubble -}}
{{- $_ := set $found "WEIR_HUBBLE" "127.0.0.1:4245" -}}
{{- end -}}
{{- if include "kubeweir.routes" . -}}
{{- $_ := set $found "WEIR_ROUTES" "/etc/kubeweir/routes/routes.yaml" -}}
{{- end -}}
{{- if $values.metricsTls -}}
{{- $_ := set $found "WEIR_METRICS_AUTH" "kubernetes" -}}
{{- $_ := set $found "WEIR_METRICS_CERTIFICATE" "/etc/kubeweir/metrics-tls/tls.crt" -}}
{{- $_ := set $found "WEIR_METRICS_KEY" "/etc/kubeweir/metrics-tls/tls.key" -}}
{{- end -}}
{{- range $name, $value := $values.settings -}}
{{- $_ := set $found $name (include "kubeweir.plain" $value) -}}
{{- end -}}
{{- toJson $found -}}
{{- end -}}

{{/*
The name of a ConfigMap with a hash of its data, as kustomize makes it: a changed setting changes the pods' templates, and a
cluster that is taken over from kustomize keeps its pods. Takes the name and the data. kustomize does not find the name that
it wants to hash, too, and takes an empty one.
*/}}
{{- define "kubeweir.hashed" -}}
{{- $hash := dict "kind" "ConfigMap" "name" "" "data" .data | toJson | sha256sum | trunc 10 -}}
{{- $hash = $hash | replace "0" "g" | replace "1" "h" | replace "3" "k" | replace "a" "m" | replace "e" "t" -}}
{{ .name }}-{{ $hash }}
{{- end -}}

{{- define "kubeweir.settingsName" -}}
{{- include "kubeweir.hashed" (dict "name" "kubeweir-settings" "data" (include "kubeweir.settings" . | fromJson)) -}}
{{- end -}}

{{/* The file of routes. */}}
{{- define "kubeweir.routes" -}}
{{- if .Values.routes -}}
{{ .Values.routes }}
{{- else if .Values.events -}}
{{ .Files.Get "files/routes-events.yaml" }}
{{- end -}}
{{- end -}}

{{- define "kubeweir.routesName" -}}
{{- include "kubeweir.hashed" (dict "name" "kubeweir-routes" "data" (dict "routes.yaml" (include "kubeweir.routes" .))) -}}
{{- end -}}

{{/* Where a pod may run, of the values of one service. */}}
{{- define "kubeweir.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "kubeweir.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* The probes of a container by its metrics port: takes the root and the ready port. */}}
{{- define "kubeweir.probes" -}}
{{- $scheme := ternary ", scheme: HTTPS" "" .root.Values.metricsTls -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ .port }}{{ $scheme }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 300
livenessProbe:
  httpGet: {path: /healthz, port: {{ .port }}{{ $scheme }}}
  periodSeconds: 20
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: {{ .ready }}{{ $scheme }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}

{{/* The volumes that all services have, and their mounts. */}}
{{- define "kubeweir.volumes" -}}
- name: kafka
  secret: {secretName: {{ .Values.kafka.secret | quote }}, optional: true, defaultMode: 0444}
{{- if .Values.metricsTls }}
- name: metrics-tls
  secret: {secretName: kubeweir-metrics-tls, defaultMode: 0444}
{{- end }}
{{- end -}}

{{- define "kubeweir.mounts" -}}
- {name: tmp, mountPath: /tmp}
- {name: kafka, mountPath: /etc/kubeweir/kafka, readOnly: true}
{{- if .Values.metricsTls }}
- {name: metrics-tls, mountPath: /etc/kubeweir/metrics-tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "kubeweir.env" -}}
- {name: WEIR_KAFKA_USERNAME_FILE, value: /etc/kubeweir/kafka/username}
- {name: WEIR_KAFKA_PASSWORD_FILE, value: /etc/kubeweir/kafka/password}
{{- end -}}

{{- define "kubeweir.envFrom" -}}
- configMapRef: {name: {{ include "kubeweir.settingsName" . }}}
{{- end -}}

{{- define "kubeweir.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace | quote }}
labels:
  app.kubernetes.io/name: {{ .name }}
  {{- include "kubeweir.partOf" .root | nindent 2 }}
{{- end -}}

{{- define "kubeweir.selector" -}}
selector:
  matchLabels: {app.kubernetes.io/name: {{ . }}}
{{- end -}}

{{- define "kubeweir.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "kubeweir.nobody" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* A container that writes to the node, as root with only the capabilities that are added. */}}
{{- define "kubeweir.root" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
{{- end -}}

{{/* The node's folders of the container runtime. */}}
{{- define "kubeweir.cniVolumes" -}}
- name: cni-programs
  hostPath: {path: {{ .Values.cni.programs }}, type: DirectoryOrCreate}
- name: cni-configuration
  hostPath: {path: {{ .Values.cni.configuration }}, type: DirectoryOrCreate}
{{- end -}}

{{- define "kubeweir.cniMounts" -}}
- {name: cni-programs, mountPath: /opt/cni/bin}
- {name: cni-configuration, mountPath: /etc/cni/net.d}
{{- end -}}

{{/* What the kernel asks of a pod that loads its programs. */}}
{{- define "kubeweir.unconfined" -}}
seccompProfile: {type: Unconfined}
appArmorProfile: {type: Unconfined}
{{- end -}}
