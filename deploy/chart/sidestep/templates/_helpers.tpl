{{- define "sidestep.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "sidestep.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sidestep.labels" -}}
{{ include "sidestep.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sidestep.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (include "sidestep.name" .) }}
{{- end }}

{{- define "sidestep.priorityClass" -}}
{{ .Values.priorityClass.name | default (include "sidestep.name" .) }}
{{- end }}

{{- define "sidestep.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* The port's name tells kubectl sidestep how to speak to it. */}}
{{- define "sidestep.port" -}}
{{- if .Values.auth.tlsSecret }}https{{ else }}metrics{{ end -}}
{{- end }}
