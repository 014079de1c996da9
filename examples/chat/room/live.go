package room

import (
	"context"
	"net"
	"net/http"

	"bennu.example/live"
	"bennu.example/presence"
	"bennu.example/socket"
)

// newSockets returns the handler of the sockets. With Config.Live it adds the live page to mux, and
// end ends the page.
func (cfg *Config) newSockets(who *presence.Presence, mux *http.ServeMux) (
	sockets *socket.Handler, end func(context.Context) error, err error,
) {
	settings := cfg.sockets(who)
	if !cfg.Live {
		return socket.NewHandler(settings), func(context.Context) error { return nil }, nil
	}
	page, err := live.NewHandler(live.Config{
		PubSub: cfg.PubSub, Presences: []*presence.Presence{who}, Events: true, Name: cfg.Node,
		Authorize: levelOf, Logger: &cfg.Logger,
	})
	if err != nil {
		return nil, nil, err
	}
	settings.Hooks = []*socket.Hooks{page.Hooks()}
	sockets = socket.NewHandler(settings)
	page.Watch(sockets)
	mux.Handle("/live/", page)
	return sockets, page.Shutdown, nil
}

// levelOf lets browsers of this machine do everything, and others nothing. The name of the host
// must be a local one: otherwise another site could point its own name to this machine. A request
// that came through a proxy is of somebody else.
func levelOf(r *http.Request) live.Level {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	remote, _, _ := net.SplitHostPort(r.RemoteAddr)
	if isLoopback(remote) && (host == "localhost" || isLoopback(host)) && r.Header.Get("X-Forwarded-For") == "" {
		return live.Operate
	}
	return live.None
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
