{{/* Labels that select the pods of one component. Call with root and component. */}}
{{- define "taskflow.selector" -}}
app.kubernetes.io/name: taskflow
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "taskflow.labels" -}}
{{ include "taskflow.selector" . }}
app.kubernetes.io/version: {{ .root.Values.image.tag | default .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{/* name and labels of an object. Call with root and component. */}}
{{- define "taskflow.metadata" -}}
name: {{ .root.Release.Name }}-{{ .component }}
labels:
  {{- include "taskflow.labels" . | nindent 2 }}
{{- end }}

{{/* What a worker is: its values over workerDefaults. Call with root and worker; read it back with fromYaml. */}}
{{- define "taskflow.worker" -}}
{{ mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy (.worker | default dict)) | toYaml }}
{{- end }}

{{/* The Secret with the authority that signed the database's certificate; empty: none. */}}
{{- define "taskflow.caSecret" -}}
{{ .Values.postgres.enabled | ternary (printf "%s-postgres-ca" .Release.Name) .Values.database.caSecret }}
{{- end }}

{{- define "taskflow.databaseHost" -}}
{{ .Values.postgres.enabled | ternary (printf "%s-postgres-rw.%s.svc" .Release.Name .Release.Namespace) .Values.database.host }}
{{- end }}

{{/* The environment of every container. Call with root and env, the component's own settings. */}}
{{- define "taskflow.env" -}}
env:
  - name: POD_NAME
    valueFrom: { fieldRef: { fieldPath: metadata.name } }
  {{- range $name, $value := merge (deepCopy .env) .root.Values.config }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
  {{- with include "taskflow.databaseHost" .root }}
  - name: DB_HOST
    value: {{ . }}
  - name: DB_PORT
    value: {{ $.root.Values.database.port | quote }}
  - name: DB_DATABASE
    value: {{ $.root.Values.database.name }}
  - name: DB_SSL_MODE
    value: {{ include "taskflow.caSecret" $.root | empty | ternary $.root.Values.database.sslMode "verify-full" }}
  {{- end }}
  {{- if include "taskflow.caSecret" .root }}
  - name: DB_SSL_ROOT_CERT
    value: /etc/taskflow/ca.crt
  {{- end }}
  {{- if .root.Values.postgres.enabled }}
  - name: DB_USERNAME
    valueFrom: { secretKeyRef: { name: {{ .root.Release.Name }}-postgres-app, key: username } }
  - name: DB_PASSWORD
    valueFrom: { secretKeyRef: { name: {{ .root.Release.Name }}-postgres-app, key: password } }
  {{- else }}
envFrom:
  - secretRef: { name: {{ .root.Values.database.secret }} }
  {{- end }}
{{- end }}

{{/* What all containers have in common. Call with root, component, env and resources. */}}
{{- define "taskflow.container" -}}
name: {{ .component }}
image: {{ .root.Values.image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{ include "taskflow.env" . }}
resources:
  {{- toYaml .resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
volumeMounts:
  - { name: tmp, mountPath: /tmp }
  {{- if include "taskflow.caSecret" .root }}
  - { name: ca, mountPath: /etc/taskflow, readOnly: true }
  {{- end }}
{{- end }}

{{/* What all pods have in common. Call with root. */}}
{{- define "taskflow.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false # a Service called "db" would set DB_PORT
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  seccompProfile: { type: RuntimeDefault }
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: { sizeLimit: 64Mi }
  {{- with include "taskflow.caSecret" .root }}
  - name: ca
    secret:
      secretName: {{ . }}
      items: [{ key: ca.crt, path: ca.crt }]
  {{- end }}
{{- end }}

{{/* Spread over zones and nodes as far as there are some. Call with root, component and values. */}}
{{- define "taskflow.placement" -}}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "taskflow.selector" $ | nindent 8 }}
  {{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Liveness says nothing about the database: its outage must not restart pods. Call with the port's name. */}}
{{- define "taskflow.probes" -}}
startupProbe: # the start may have to wait for the database
  httpGet: { path: /liveness, port: {{ . }} }
  periodSeconds: 2
  timeoutSeconds: 3
  failureThreshold: 60
readinessProbe:
  httpGet: { path: /readiness, port: {{ . }} }
  periodSeconds: 5
  timeoutSeconds: 3
livenessProbe:
  httpGet: { path: /liveness, port: {{ . }} }
  periodSeconds: 10
  timeoutSeconds: 3
{{- end }}
