package doctor

import "strings"

// The lines of configuration are those of docs/deployment.md.

func (e *examination) isProxy(name string) bool {
	return strings.Contains(strings.ToLower(e.proxy), name)
}

const guide = "docs/deployment.md has whole configurations for nginx, Caddy and Go."

func (e *examination) upgradeFix() string {
	if e.isProxy("nginx") {
		return "Add to the location of the socket in nginx:\n" +
			"    proxy_http_version 1.1;\n" +
			"    proxy_set_header Upgrade $http_upgrade;\n" +
			"    proxy_set_header Connection \"upgrade\";\n" + guide
	}
	return "Let every proxy pass the headers Upgrade and Connection, by HTTP/1.1 (nginx: proxy_http_version 1.1 and " +
		"proxy_set_header; Apache: upgrade=websocket; load balancers: turn on WebSockets). " + guide
}

func (e *examination) hostFix() string {
	if e.isProxy("nginx") {
		return "Add to the location of the socket in nginx:\n    proxy_set_header Host $http_host;"
	}
	return "Let every proxy keep the Host (nginx: proxy_set_header Host $http_host; Apache: ProxyPreserveHost On)."
}

func (e *examination) bufferingFix() string {
	return "Turn off buffering in the proxy, for the location of the socket (nginx: proxy_buffering off; " +
		"Go: FlushInterval -1), and its compression of responses. If it cannot be turned off, clients can use wss://, " +
		"which proxies on the way cannot read, or long poll. " + guide
}

func (e *examination) idleFix() string {
	if e.isProxy("nginx") {
		return "Clients send a heartbeat every 30 s. Raise in nginx:\n" +
			"    proxy_read_timeout 75s;\n    proxy_send_timeout 75s;"
	}
	return "Clients send a heartbeat every 30 s. Raise the idle timeout of every proxy and load balancer to 75 s " +
		"(nginx: proxy_read_timeout and proxy_send_timeout), or lower heartbeatIntervalMs of phoenix.js and " +
		"HeartbeatInterval of the Go client below it."
}
