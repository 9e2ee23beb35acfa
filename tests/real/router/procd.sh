# shellcheck shell=dash
# A stand-in for procd's functions: what an init script says is passed on, a line for each thing said and a tab between
# its words, to whoever reads /tmp/procd/ask and answers in /tmp/procd/answer.
_procd_said=""
_procd_tab="$(printf '\t')"

_procd_say() {
	local line="$1"
	shift
	while [ $# -gt 0 ]; do line="$line$_procd_tab$1"; shift; done
	_procd_said="$_procd_said$line
"
}

# Prints the answer; false where that is "no".
_procd_ask() {
	local answer
	printf '%s' "$_procd_said" >/tmp/procd/ask
	_procd_said=""
	read -r answer </tmp/procd/answer
	[ "$answer" = yes ]
}

procd_open_service() { _procd_said=""; _procd_say service "$1"; }
procd_close_service() { _procd_say "$1"; _procd_ask; }
procd_open_instance() { _procd_say instance "${1:-instance1}"; }
procd_close_instance() { :; }
procd_set_param() { _procd_say param "$@"; }
procd_kill() { _procd_said=""; _procd_say service "$1"; _procd_say delete; _procd_ask; }
procd_running() { _procd_said=""; _procd_say service "$1"; _procd_say running; _procd_ask; }
procd_send_signal() {
	local number="$3"
	case "$number" in [A-Z]*) number="$(kill -l "$number")" || return 1 ;; esac
	_procd_said=""
	_procd_say service "$1"
	_procd_say signal "$2" "$number"
	_procd_ask
}
