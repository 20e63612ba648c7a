{{- define "dropoff.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "dropoff.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The labels by which pods of one kind are found, which never change. */}}
{{- define "dropoff.selector" -}}
app.kubernetes.io/name: dropoff
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "dropoff.labels" -}}
{{ include "dropoff.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end -}}

{{/* What every pod has but its containers. */}}
{{- define "dropoff.pod" -}}
{{- with .root.Values.serviceAccount }}
serviceAccountName: {{ . }}
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .root.Values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- end -}}

{{/* What every container has but its command. */}}
{{- define "dropoff.container" -}}
image: {{ include "dropoff.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
env:
  - {name: DROPOFF_HOLD_SECONDS, value: {{ .root.Values.holdSeconds | quote }}}
{{- with .root.Values.deliveries.source }}
  - {name: DROPOFF_SOURCE, value: {{ . | quote }}}
{{- end }}
{{- range $name, $value := .root.Values.settings }}
  - {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{/* The secrets that one kind of process reads, and a folder for what it writes, of which nothing is kept. */}}
{{- define "dropoff.volumes" -}}
- name: secrets
  secret:
    secretName: {{ .root.Values.secret }}
    defaultMode: 0440
    items:
{{- range concat .reads (.more | default list) }}
      - {key: {{ . }}, path: {{ . }}}
{{- end }}
- name: tmp
  emptyDir: {}
{{- end -}}

{{- define "dropoff.mounts" -}}
- {name: secrets, mountPath: /run/secrets, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end -}}

{{/* A worker's Deployment: of .component, started by .command. */}}
{{- define "dropoff.worker" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "dropoff.name" .root }}-{{ .component }}
  labels: {{- include "dropoff.labels" . | nindent 4 }}
spec:
{{- if not .autoscaled }}
  replicas: {{ .values.replicas }}
{{- end }}
  selector:
    matchLabels: {{- include "dropoff.selector" . | nindent 6 }}
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      labels: {{- include "dropoff.labels" . | nindent 8 }}
    spec:
      {{- include "dropoff.pod" . | nindent 6 }}
      # What it has begun is finished first.
      terminationGracePeriodSeconds: 40
      containers:
        - name: {{ .component }}
          command: {{ toJson .command }}
          {{- include "dropoff.container" . | nindent 10 }}
          readinessProbe:
            exec: {command: [dropoff, healthcheck]}
            periodSeconds: 30
            timeoutSeconds: 10
          livenessProbe:
            exec: {command: [dropoff, healthcheck]}
            periodSeconds: 30
            timeoutSeconds: 10
            # Redis may be away for a while, and it reads on by itself then.
            failureThreshold: 10
          resources: {{ toJson .values.resources }}
          volumeMounts:
            {{- include "dropoff.mounts" . | nindent 12 }}
{{- if and .deliveries .values.claim }}
            - {name: results, mountPath: /srv/results, readOnly: true}
{{- end }}
      volumes:
        {{- include "dropoff.volumes" . | nindent 8 }}
{{- if and .deliveries .values.claim }}
        - name: results
          persistentVolumeClaim: {claimName: {{ .values.claim }}, readOnly: true}
{{- end }}
{{- end -}}
