#!/bin/sh
# Prints each denied connection once: id, verdict, who, to where, which policies isolate. Needs kcat and jq.
# usage: consume.sh BROKERS TOPIC GROUP
#
# kcat commits what it has read, whether jq has printed it or not: good for looking, not for keeping.
set -eu
exec 3<<'JQ'
def ends: if .pod_name then "\(.namespace)/\(.pod_name)" else .node_name // .instance // "?" end;
# Keeps the highest number seen per ring and pod: a pod's numbers rise, so a record that is not above it is a repeat.
foreach inputs as $flow ({last: {}};
  (if $flow.connection.direction == "ingress" then $flow.dest else $flow.src end) as $local
  | ($flow.id | capture("^(?<ring>.+)-(?<number>[0-9]+)$")) as $id
  | "\($id.ring)/\($local.pod_uid // $local.pod_name // $local.node_name)" as $subject
  | .new = (($id.number | tonumber) > (.last[$subject] // -1))
  | if .new then .last[$subject] = ($id.number | tonumber) else . end;
  if .new then
    [ $flow.id, $flow.disposition, ($flow.src | ends), "\($flow.dest | ends):\($flow.connection.dest_port // "")",
      ([($flow.isolated_by + $flow.policies)[].name] | join(",")) ] | @tsv
  else empty end)
JQ
kcat -q -u -b "$1" -G "$3" -X auto.offset.reset=earliest -X session.timeout.ms=6000 "$2" |
  jq --unbuffered -n -r -f /dev/fd/3
