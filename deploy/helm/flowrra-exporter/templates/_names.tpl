{{- define "flowrra.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "flowrra.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "flowrra.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "flowrra.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "flowrra.selector" -}}
app.kubernetes.io/name: {{ include "flowrra.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "flowrra.labels" -}}
{{ include "flowrra.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{/* A duration such as 15s. */}}
{{- define "flowrra.milliseconds" -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get (dict "ms" 1 "s" 1000 "m" 60000) (regexFind "[a-z]+$" .)) -}}
{{- end -}}

{{/* What is the same in the pods of workers and observer: nothing that they don't need. */}}
{{- define "flowrra.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "flowrra.container" -}}
image: {{ printf "%s:%s" .Values.image.repository .Values.image.tag | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy | quote }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- with .Values.envFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "flowrra.env" -}}
{{- $root := index . 0 -}}
{{- $key := index . 1 -}}
{{- if or $root.Values.broker.secretName $root.Values.env -}}
env:
{{- if $root.Values.broker.secretName }}
{{- range $name := list "FLOWRRA_BROKER_URL" "FLOWRRA_BACKEND_URL" }}
  - name: {{ $name }}
    valueFrom: {secretKeyRef: {name: {{ $root.Values.broker.secretName | quote }}, key: {{ $key | quote }}}}
{{- end }}
{{- end }}
{{- with $root.Values.env }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The files of a container that serves, or not, and has some of its own, or none. */}}
{{- define "flowrra.volumeMounts" -}}
{{- $root := index . 0 -}}
{{- $served := and (index . 1) $root.Values.webConfig.secretName -}}
{{- $writes := index . 2 -}}
{{- if or $served $writes $root.Values.volumeMounts -}}
volumeMounts:
{{- if $writes }}
  - {name: tmp, mountPath: /tmp}
{{- end }}
{{- if $served }}
  - {name: web-config, mountPath: /etc/flowrra-exporter, readOnly: true}
{{- end }}
{{- with $root.Values.volumeMounts }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "flowrra.volumes" -}}
{{- $root := index . 0 -}}
{{- $served := and (index . 1) $root.Values.webConfig.secretName -}}
{{- $writes := index . 2 -}}
{{- if or $served $writes $root.Values.volumes -}}
volumes:
{{- if $writes }}
  - name: tmp
    emptyDir: {sizeLimit: 100Mi}
{{- end }}
{{- if $served }}
  - name: web-config
    secret: {secretName: {{ $root.Values.webConfig.secretName | quote }}}
{{- end }}
{{- with $root.Values.volumes }}
{{ toYaml . | indent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "flowrra.served" -}}
ports:
  - {name: metrics, containerPort: 9464}
  - {name: probes, containerPort: 9465}
{{- range $probe, $path := dict "startup" "/startupz" "liveness" "/livez" "readiness" "/readyz" }}
{{ $probe }}Probe:
  httpGet: {path: {{ $path }}, port: probes}
  {{- toYaml (index $.Values.probes $probe) | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
Queries of one queue, and of no other app's. What isn't known has no answer, so that the number of workers stays; an empty
queue is 0, and so is one that is paused, as workers could do nothing about it. Until when a queue is drained is unknown while it
grows.
*/}}
{{- define "flowrra.selected" -}}
{{ printf "{namespace=%q,job=~\"(.+/)?%s-(worker|observer)\",executor=%q,queue=%q}" .Release.Namespace (include "flowrra.fullname" .) .Values.autoscaling.executor .Values.autoscaling.queue }}
{{- end -}}
{{- define "flowrra.depth" -}}
clamp_min(max(flowrra_queue_pending_tasks{{ include "flowrra.selected" . }}) - (max(flowrra_queue_paused_tasks{{ include "flowrra.selected" . }}) or max(flowrra_queue_pending_tasks{{ include "flowrra.selected" . }}) * 0), 0) unless max(flowrra_queue_paused{{ include "flowrra.selected" . }}) == 1 or max(flowrra_queue_pending_tasks{{ include "flowrra.selected" . }}) * 0
{{- end -}}
{{- define "flowrra.age" -}}
time() - min(flowrra_queue_oldest_pending_timestamp_seconds{{ include "flowrra.selected" . }}) unless max(flowrra_queue_paused{{ include "flowrra.selected" . }}) == 1 or max(flowrra_queue_pending_tasks{{ include "flowrra.selected" . }}) * 0
{{- end -}}
{{- define "flowrra.drain" -}}
max(flowrra_queue_drain_seconds{{ include "flowrra.selected" . }}) or max(flowrra_queue_paused{{ include "flowrra.selected" . }} == 1) * 0
{{- end -}}
