{{/* The name of every object of the release. */}}
{{- define "cloudcore.name" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Objects without a namespace carry it in their name, so that two releases can live side by side. */}}
{{- define "cloudcore.clusterName" -}}
{{- if eq .Release.Namespace "tombolo-system" -}}
tombolo-{{ include "cloudcore.name" . }}
{{- else -}}
tombolo-{{ include "cloudcore.name" . }}-{{ .Release.Namespace }}
{{- end -}}
{{- end -}}

{{- define "cloudcore.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "cloudcore.labels" -}}
{{ include "cloudcore.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: tombolo
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end -}}

{{- define "cloudcore.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* The user that cloudcore is to the API server. */}}
{{- define "cloudcore.user" -}}
system:serviceaccount:{{ .Release.Namespace }}:{{ include "cloudcore.name" . }}
{{- end -}}
