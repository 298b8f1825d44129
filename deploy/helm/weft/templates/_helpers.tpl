{{/* What the objects of this release are called: a revision's have its name at their end. */}}
{{- define "weft.suffix" -}}
{{- with .Values.revision }}-{{ . }}{{ end -}}
{{- end -}}

{{- define "weft.name" -}}
weft-control-plane{{ include "weft.suffix" . }}
{{- end -}}

{{/* What the pods of the control plane are found by; never changed, for selectors cannot be. */}}
{{- define "weft.selector" -}}
app.kubernetes.io/name: weft-control-plane
app.kubernetes.io/instance: {{ include "weft.name" . }}
{{- end -}}

{{- define "weft.labels" -}}
app.kubernetes.io/part-of: weft
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with .Values.revision }}
weft.dev/revision: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* weft.image (list root image): an image's whole name. */}}
{{- define "weft.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.image.hub }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.name -}}
{{- if $image.digest }}@{{ $image.digest }}
{{- else }}:{{ coalesce $image.tag $root.Values.image.tag $root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "weft.several" -}}
{{- if or .Values.autoscaling.enabled (gt (int .Values.replicaCount) 1) }}yes{{ end -}}
{{- end -}}

{{/* weft.failurePolicy (list root given): closed only where one replica may be away while another answers. */}}
{{- define "weft.failurePolicy" -}}
{{- $root := index . 0 -}}
{{- coalesce (index . 1) (ternary "Fail" "Ignore" (eq (include "weft.several" $root) "yes")) -}}
{{- end -}}

{{/* Namespaces whose pods are never looked at: without them, a cluster could not heal itself. */}}
{{- define "weft.excluded" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values:
    {{- range concat (list .Release.Namespace "kube-system" "kube-public" "kube-node-lease") .Values.injector.excludedNamespaces | uniq }}
    - {{ . | quote }}
    {{- end }}
{{- end -}}

{{/* What this control plane is called by labels. */}}
{{- define "weft.revision" -}}
{{- default "default" .Values.revision -}}
{{- end -}}
