package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/pflag"

	"bennu.example/channel"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// options are the flags that all commands with a client have.
type options struct {
	connectParams string
	headers       []string
	token         string
	transport     string
	vsn           string
	timeout       time.Duration
	verbose       bool
}

// add adds the flags.
func (o *options) add(f *pflag.FlagSet) {
	o.addHTTP(f)
	f.StringVar(&o.transport, "transport", "websocket", "websocket, longpoll, or auto")
	f.StringVar(&o.vsn, "vsn", "2.0.0", "version of the serializer: 1.0.0, 2.0.0, or 3.0.0 (MessagePack)")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log what happens to the connection")
}

// addHTTP adds the flags that are about requests. The others have their defaults then.
func (o *options) addHTTP(f *pflag.FlagSet) {
	o.transport, o.vsn = "websocket", "2.0.0"
	f.StringVar(&o.connectParams, "connect-params", "", "connect params of the socket, a JSON object")
	f.StringArrayVarP(&o.headers, "header", "H", nil, "a header of the handshake, as `name:value`; repeatable")
	f.StringVar(&o.token, "token", "", "auth token of the socket; $BENNU_TOKEN if it is empty")
	f.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long to wait for the connection, and for each reply")
}

// config returns the configuration of the client.
func (o *options) config(a *app) (*socket.ClientConfig, error) {
	cfg := &socket.ClientConfig{
		AuthToken:      o.token,
		HTTPClient:     a.http,
		Timeout:        o.timeout,
		ConnectTimeout: o.timeout,
		MaxBacklog:     64 << 20, // so that a slow reader of the output loses no event
	}
	if cfg.AuthToken == "" {
		cfg.AuthToken = os.Getenv("BENNU_TOKEN")
	}
	if o.timeout <= 0 {
		return nil, usage("--timeout must be positive")
	}
	params, err := object("--connect-params", o.connectParams)
	if err != nil {
		return nil, err
	}
	if len(params) > 0 {
		cfg.Params = params
	}
	if cfg.Header, err = parseHeaders(o.headers); err != nil {
		return nil, err
	}
	switch o.transport {
	case "websocket":
	case "longpoll":
		cfg.Transport = socket.TransportLongPoll
	case "auto":
		cfg.Transport = socket.TransportFallback
	default:
		return nil, usage("--transport %q: want websocket, longpoll or auto", o.transport)
	}
	var ok bool
	if cfg.Serializer, ok = serializer.Select(serializer.Default(), fullVersion(o.vsn)); !ok {
		return nil, usage("--vsn %q: want 1.0.0, 2.0.0 or 3.0.0", o.vsn)
	}
	logger := zerolog.Nop()
	if o.verbose {
		console := zerolog.ConsoleWriter{Out: a.stderr, NoColor: true, TimeFormat: time.TimeOnly}
		logger = zerolog.New(console).With().Timestamp().Logger()
	}
	cfg.Logger = &logger
	return cfg, nil
}

// fullVersion lets "2" stand for "2.0.0".
func fullVersion(vsn string) string {
	if len(vsn) == 1 {
		vsn += ".0.0"
	}
	return vsn
}

func parseHeaders(lines []string) (http.Header, error) {
	h := http.Header{}
	for _, l := range lines {
		name, value, ok := strings.Cut(l, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "" {
			return nil, usage("--header %q: want 'Name: value'", l)
		}
		h.Add(name, strings.TrimSpace(value))
	}
	return h, nil
}

// object parses a flag with a JSON object. Empty means an empty object.
func object(flag, text string) (map[string]json.RawMessage, error) {
	m := map[string]json.RawMessage{}
	if text == "" {
		return m, nil
	}
	if err := json.Unmarshal([]byte(text), &m); err != nil || m == nil {
		return nil, usage("%s %s: want a JSON object, such as '{\"user\": \"ann\"}'", flag, text)
	}
	return m, nil
}

var hasScheme = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://`)

// socketURL completes what a person types: a URL without a scheme, or with the path of a transport.
func socketURL(s string) string {
	if !hasScheme.MatchString(s) {
		s = "ws://" + s
	}
	base, query, hasQuery := strings.Cut(s, "?")
	base = strings.TrimRight(base, "/")
	for _, name := range []string{"/websocket", "/longpoll"} {
		base = strings.TrimSuffix(base, name)
	}
	if hasQuery {
		base += "?" + query
	}
	return base
}

// session is a connected client, and what is printed about it.
type session struct {
	*socket.Client
	p       *printer
	timeout time.Duration
	ctx     context.Context // ends with Ctrl-C and with end
	end     context.CancelCauseFunc
}

// connect connects to the server. The caller must call close.
func (a *app) connect(ctx context.Context, url string, o *options) (*session, error) {
	cfg, err := o.config(a)
	if err != nil {
		return nil, err
	}
	p := a.printer()
	url = socketURL(url)
	c, err := socket.Dial(ctx, url, cfg)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, connectError(url, err)
	}
	s := &session{Client: c, p: p, timeout: o.timeout}
	s.ctx, s.end = context.WithCancelCause(ctx)
	p.failed = s.end
	return s, nil
}

// watchConnection prints when the connection is lost and when there is another one.
func (s *session) watchConnection() {
	lost := false
	s.OnState(func(st socket.State) {
		switch st.Status {
		case socket.StatusWaiting:
			s.p.note("no connection (%s); next try in %v", reasonOf(st.Cause), time.Until(st.Until).Round(time.Millisecond))
			lost = true
		case socket.StatusConnected:
			if lost {
				s.p.note("connected again")
			}
			lost = false
		case socket.StatusDenied, socket.StatusFailed:
			s.end(connectError(s.URL(), st.Cause))
		}
	})
}

// closeTimeout bounds the wait for the end of the connection.
const closeTimeout = 2 * time.Second

// close closes the client. It does not wait for replies: Flush does.
func (s *session) close() {
	s.end(nil)
	s.Pause()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = s.Close(ctx) // the result of the command is known already
}

// join joins a topic and waits for the reply.
func (s *session) join(c *channel.Client) (serializer.Payload, error) {
	reply, err := c.Join().Wait(s.ctx)
	if err != nil && s.ctx.Err() != nil {
		return reply, context.Cause(s.ctx)
	}
	var refusal *push.Error
	if errors.As(err, &refusal) && refusal.Reason() == "unmatched topic" {
		return reply, refused("join %s: the server has no channel for this topic", printable(c.Topic()))
	}
	return reply, replyError("join "+printable(c.Topic()), err)
}

// joinParams parses the params of a join.
func joinParams(text string) (any, error) {
	m, err := object("--params", text)
	if err != nil || len(m) == 0 {
		return nil, err
	}
	return m, nil
}

func (a *app) printer() *printer { return &printer{json: !a.terminal, out: a.stdout, notes: a.stderr} }

// closedError explains that the server has closed a channel for good.
func closedError(topic string, err error) error {
	return refused("%s: the server has closed the channel: %s", printable(topic), printable(fmt.Sprint(err)))
}
