{{- define "modelpress.labels" -}}
app.kubernetes.io/name: modelpress
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "modelpress.environment" -}}
envFrom:
  - secretRef: {name: {{ .Values.existingSecret }}}
env:
  - {name: MODELPRESS_BLOB_URL, value: {{ .Values.blobUrl | quote }}}
  - {name: MODELPRESS_AUTH, value: "required"}
  {{- range $name, $value := .Values.settings }}
  - {name: MODELPRESS_{{ $name }}, value: {{ $value | quote }}}
  {{- end }}
{{- end }}

{{- define "modelpress.hardened" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "modelpress.volumes" -}}
volumes:
  - name: data
    emptyDir: {sizeLimit: {{ . }}}
  - name: tmp
    emptyDir: {}
{{- end }}

{{- define "modelpress.mounts" -}}
volumeMounts:
  - {name: data, mountPath: /var/lib/modelpress}
  - {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "modelpress.pull" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}
