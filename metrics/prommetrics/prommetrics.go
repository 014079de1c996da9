// Package prommetrics measures Bennu for Prometheus: connections, joins, callbacks, broadcasts,
// deliveries, drops, the engine and presence.
//
//	metrics := prommetrics.New(prommetrics.Config{})
//	ps := pubsub.New(engine)
//	ps.AddHooks(metrics.PubSub())
//	handler := socket.NewHandler(socket.Config{
//		PubSub: ps, Hooks: []*socket.Hooks{metrics.Socket()}, Channels: channels,
//	})
//	http.Handle("/metrics", promhttp.Handler())
//
// No label has a value that a client chooses. The label route is the pattern in
// socket.Config.Channels, never a topic. The label name is the event of an On or an Intercept, or
// the type of an Info, and "*" for OnAny. So the number of series depends on the program only.
//
// The file dashboard.json is a dashboard for Grafana.
package prommetrics

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"bennu.example/channel"
	"bennu.example/presence"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/socket"
	"bennu.example/transport"
)

// Config configures Metrics. The zero value works.
type Config struct {
	// Registerer receives the metrics. Nil means prometheus.DefaultRegisterer.
	Registerer prometheus.Registerer
	// Namespace begins the name of every metric. Empty means "bennu", which the dashboard expects.
	Namespace string
	// Buckets are the bounds of the histograms of callbacks and deliveries, in seconds. Nil means 14
	// buckets from 50 µs to 10 s.
	Buckets []float64
}

// Metrics are the metrics of one process. Several handlers, PubSubs and Presences may share them.
// Its methods may be called from any goroutine.
type Metrics struct {
	sockets         *prometheus.GaugeVec
	opened, closed  *prometheus.CounterVec
	lifetime        *prometheus.HistogramVec
	refused         *prometheus.CounterVec
	dropped         *prometheus.CounterVec
	channels        *prometheus.GaugeVec
	joins, ends     *prometheus.CounterVec
	crashes         *prometheus.CounterVec
	recoveries      *prometheus.CounterVec
	missed          *prometheus.CounterVec
	running         *prometheus.GaugeVec
	callbacks       *prometheus.HistogramVec
	results         *prometheus.CounterVec
	broadcasts      *prometheus.CounterVec
	deliveries      *prometheus.CounterVec
	delivery        *prometheus.HistogramVec
	connected       prometheus.Gauge
	gaps            prometheus.Counter
	presence, diffs *prometheus.CounterVec
}

// New makes the metrics and registers them. Like prometheus.MustRegister, it panics if they are
// registered already.
func New(cfg Config) *Metrics {
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.DefaultRegisterer
	}
	if cfg.Namespace == "" {
		cfg.Namespace = "bennu"
	}
	if cfg.Buckets == nil {
		cfg.Buckets = []float64{
			.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1, 10,
		}
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: cfg.Namespace, Name: name, Help: help}, labels)
		cfg.Registerer.MustRegister(c)
		return c
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: cfg.Namespace, Name: name, Help: help}, labels)
		cfg.Registerer.MustRegister(g)
		return g
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(
			prometheus.HistogramOpts{Namespace: cfg.Namespace, Name: name, Help: help, Buckets: buckets}, labels)
		cfg.Registerer.MustRegister(h)
		return h
	}
	return &Metrics{
		sockets: gauge("sockets", "Open connections.", "transport"),
		opened:  counter("sockets_opened_total", "Connections that were opened.", "transport"),
		closed:  counter("sockets_closed_total", "Connections that have ended, by the cause.", "transport", "reason"),
		lifetime: histogram("socket_lifetime_seconds", "How long connections lasted.",
			[]float64{1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600}, "transport"),
		refused: counter("handshakes_refused_total", "Handshakes that failed, by the cause.", "transport", "reason"),
		dropped: counter("frames_dropped_total",
			"Frames that were dropped for slow clients, and connections that ended because of it.", "transport", "reason"),

		channels: gauge("channels", "Joined channels.", "route"),
		joins:    counter("joins_total", "Joins that were answered, by the result.", "route", "result"),
		ends:     counter("channels_ended_total", "Joined channels that have ended, by the cause.", "route", "reason"),
		crashes: counter("crashes_total", "Callbacks that failed, and channels that a bound has ended.",
			"route", "reason"),
		recoveries: counter("recoveries_total", "Joins that asked for history, by the result.", "route", "result"),
		missed:     counter("recovered_records_total", "Records that were sent to clients that came back.", "route"),

		running: gauge("callbacks_running", "Callbacks that run.", "route", "kind"),
		callbacks: histogram("callback_seconds", "How long callbacks took.", cfg.Buckets,
			"route", "kind", "name"),
		results: counter("callbacks_total", "Callbacks that have returned, by the result.",
			"route", "kind", "name", "result"),

		broadcasts: counter("broadcasts_total", "Broadcasts by this node.", "result"),
		deliveries: counter("deliveries_total", "Broadcasts handed to subscribers of this node.", "origin"),
		delivery: histogram("delivery_seconds", "How long it took to hand a broadcast to the subscribers of this node.",
			cfg.Buckets, "origin"),
		connected: gauge("engine_connected", "Whether the engine is connected, 1 or 0.").WithLabelValues(),
		gaps:      counter("engine_gaps_total", "Broadcasts of other nodes may have been missed.").WithLabelValues(),

		presence: counter("presence_changes_total", "Presences tracked, updated and untracked by this node.",
			"op", "result"),
		diffs: counter("presence_diffs_total",
			"Diffs of presence, the joins and leaves in them, and the clients that they were sent to.", "count"),
	}
}

// Socket returns the hooks for socket.Config.Hooks.
func (m *Metrics) Socket() *socket.Hooks {
	return &socket.Hooks{
		Refused: func(_ context.Context, e *socket.SocketEvent) { m.refused.WithLabelValues(e.Transport, e.Reason).Inc() },
		Opened: func(_ context.Context, e *socket.SocketEvent) {
			m.sockets.WithLabelValues(e.Transport).Inc()
			m.opened.WithLabelValues(e.Transport).Inc()
		},
		Closed: func(_ context.Context, e *socket.SocketEvent) {
			m.sockets.WithLabelValues(e.Transport).Dec()
			m.closed.WithLabelValues(e.Transport, closeReason(e.Err)).Inc()
			m.lifetime.WithLabelValues(e.Transport).Observe(e.Took.Seconds())
		},
		Dropped: func(_ context.Context, e *socket.SocketEvent) {
			m.dropped.WithLabelValues(e.Transport, e.Reason).Add(float64(e.Count))
		},
		Joined: func(_ context.Context, e *socket.ChannelEvent) {
			m.channels.WithLabelValues(e.Route).Inc()
			m.joins.WithLabelValues(e.Route, "ok").Inc()
		},
		JoinRefused: func(_ context.Context, e *socket.ChannelEvent) { m.joins.WithLabelValues(e.Route, e.Reason).Inc() },
		Left: func(_ context.Context, e *socket.ChannelEvent) {
			m.channels.WithLabelValues(e.Route).Dec()
			m.ends.WithLabelValues(e.Route, endReason(e.Err)).Inc()
		},
		Crashed: func(_ context.Context, e *socket.ChannelEvent) { m.crashes.WithLabelValues(e.Route, e.Reason).Inc() },
		Recovered: func(_ context.Context, e *socket.ChannelEvent) {
			result := e.Reason
			if result == "" {
				result = "ok"
			}
			m.recoveries.WithLabelValues(e.Route, result).Inc()
			m.missed.WithLabelValues(e.Route).Add(float64(e.Missed))
		},
		CallbackStart: func(ctx context.Context, e *socket.ChannelEvent) context.Context {
			m.running.WithLabelValues(e.Route, e.Callback.Kind).Inc()
			return ctx
		},
		CallbackDone: func(_ context.Context, e *socket.ChannelEvent) {
			m.running.WithLabelValues(e.Route, e.Callback.Kind).Dec()
			m.callbacks.WithLabelValues(e.Route, e.Callback.Kind, e.Callback.Name).Observe(e.Took.Seconds())
			m.results.WithLabelValues(e.Route, e.Callback.Kind, e.Callback.Name, callbackResult(e.Err)).Inc()
		},
	}
}

// PubSub returns the hooks for pubsub.PubSub.AddHooks.
func (m *Metrics) PubSub() *pubsub.Hooks {
	return &pubsub.Hooks{
		BroadcastDone: func(_ context.Context, _, _ string, err error) {
			m.broadcasts.WithLabelValues(result(err)).Inc()
		},
		Delivered: func(_ context.Context, d pubsub.Delivery) {
			origin := "local"
			if d.Remote {
				origin = "remote"
			}
			m.deliveries.WithLabelValues(origin).Add(float64(d.Subscribers))
			m.delivery.WithLabelValues(origin).Observe(d.Took.Seconds())
		},
		Gap: func(error) { m.gaps.Inc() },
		Health: func(h pubsub.Health) {
			if h.Connected {
				m.connected.Set(1)
			} else {
				m.connected.Set(0)
			}
		},
	}
}

// Presence returns the hooks for presence.Config.Hooks.
func (m *Metrics) Presence() *presence.Hooks {
	return &presence.Hooks{
		Tracked: func(op, _, _ string, err error) { m.presence.WithLabelValues(op, result(err)).Inc() },
		Diff: func(_ string, joins, leaves, subscribers int) {
			m.diffs.WithLabelValues("diffs").Inc()
			m.diffs.WithLabelValues("joins").Add(float64(joins))
			m.diffs.WithLabelValues("leaves").Add(float64(leaves))
			m.diffs.WithLabelValues("sent").Add(float64(subscribers))
		},
	}
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

// callbackResult returns one of a few words for the error of a callback.
func callbackResult(err error) string {
	var panicked *channel.PanicError
	var rejected *push.Error
	var reason push.Reason
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &panicked):
		return "panic"
	case errors.Is(err, channel.ErrStop):
		return "stopped"
	case errors.As(err, &rejected), errors.As(err, &reason):
		return "rejected"
	}
	return "error"
}

// endReason returns one of a few words for the reason of a channel's end.
func endReason(err error) string {
	for _, known := range []struct {
		err  error
		word string
	}{
		{channel.ErrLeft, "left"}, {channel.ErrStop, "stopped"}, {channel.ErrReplaced, "replaced"},
		{channel.ErrFull, "full"}, {channel.ErrClosed, "disconnected"},
	} {
		if errors.Is(err, known.err) {
			return known.word
		}
	}
	return "crashed"
}

// codeNormal is the close code of a client that disconnects.
const codeNormal = 1000

// closeReason returns one of a few words for the end of a connection.
func closeReason(err error) string {
	var panicked *channel.PanicError
	var closed *transport.CloseError
	switch {
	case errors.As(err, &panicked):
		return "crashed"
	case errors.Is(err, transport.ErrFull):
		return "slow"
	case errors.Is(err, transport.ErrIdle):
		return "idle"
	case !errors.As(err, &closed):
		return "network"
	}
	switch closed.Code {
	case codeNormal, transport.CodeGoingAway:
		return "normal"
	case transport.CodeRestart:
		return "restart"
	case socket.CodeDenied, socket.CodeTokenExpired:
		return "denied"
	case transport.CodeTooBig:
		return "too big"
	case transport.CodeOverloaded:
		return "slow"
	case transport.CodeInternal:
		return "malformed"
	}
	return "other"
}
