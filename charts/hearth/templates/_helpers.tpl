{{/* Labels of everything in this chart. Argument: a list of the root and the component's name. */}}
{{- define "hearth.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{ include "hearth.selector" . }}
{{- end }}

{{/* The labels by which pods are found. They never change. */}}
{{- define "hearth.selector" -}}
app.kubernetes.io/name: hearth
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* An image: by its digest where one is given, else by the tag. Argument: a list of the root and the image's last word. */}}
{{- define "hearth.image" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $registry := required "image.registry is not set: name the registry and path that hold Hearth's images, for example --set image.registry=REGISTRY/hearth" $root.Values.image.registry -}}
{{- with index $root.Values.image.digests $name -}}
{{ $registry }}/{{ $name }}@{{ . }}
{{- else -}}
{{ $registry }}/{{ $name }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "hearth.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}
