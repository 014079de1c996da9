package socket

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// grantWorld is one run of TestGrants: two nodes, clients that do what they like, and a server that
// revokes, kicks and replaces grants. Everything is recorded, and judged at the end.
type grantWorld struct {
	t     *testing.T
	seed  uint64
	nodes [2]*Handler

	// deciding is held while the server's code decides about a grant and applies it, and locked while
	// it changes its mind: Revoke counts for decisions before it.
	deciding sync.RWMutex

	mu       sync.Mutex
	rnd      *rand.Rand
	seq      int // of everything that is recorded
	least    map[string]int
	revoked  map[string][]time.Time // when Revoke returned, by user and generation
	grants   map[int]*madeGrant     // by number; the first is that of anonymous clients
	messages map[int]*sentMessage
	calls    []grantCall
	sessions map[string]*grantSession
	kicks    []grantKick
	numbers  int // of grants, messages, sessions and channels
}

// madeGrant is a grant that a token or the server made. Verify refuses a generation that was
// revoked.
type madeGrant struct {
	n          int
	user       string
	generation int
	begun      int // seq before the client or the server asked for it
	expires    time.Time
}

// sentMessage is a message of a client. Its begin and end are the seq before and after Receive.
type sentMessage struct {
	begin, end int
	at         time.Time
}

// grantCall is a call of a callback.
type grantCall struct {
	what    string
	session string
	topic   string
	channel int
	message int // zero means none
	grant   int
	at      time.Time
}

type grantKick struct {
	topic, user string
	at          time.Time
}

// grantSession is a connection. The replies and events about its grants are sent in the order of
// the changes.
type grantSession struct {
	w      *grantWorld
	id     string
	s      *session
	calm   bool // the client keeps its grant until it expires
	told   []toldGrant
	closed time.Time // zero: it is open
}

type toldGrant struct {
	n, seq int
	at     time.Time
}

func (t toldGrant) String() string { return strconv.Itoa(t.n) }

// grantRoom is the state of a channel.
type grantRoom struct {
	session string
	number  int
}

func newGrantWorld(t *testing.T, seed uint64, nodes [2]*pubsub.PubSub) *grantWorld {
	w := &grantWorld{
		t: t, seed: seed, rnd: rand.New(rand.NewPCG(seed, 0)), least: map[string]int{}, revoked: map[string][]time.Time{},
		grants: map[int]*madeGrant{0: {}}, messages: map[int]*sentMessage{}, sessions: map[string]*grantSession{},
	}
	nop := zerolog.Nop()
	for i := range w.nodes {
		w.nodes[i] = NewHandler(Config{
			Channels: channel.Routes{"room:*": w.room(), "safe:*": w.room(channel.Reauthorize(w.ask))},
			Auth:     &Auth{Verify: w.verify, Anonymous: true, Grace: 500 * time.Millisecond},
			PubSub:   nodes[i], Logger: &nop,
		})
	}
	return w
}

func (w *grantWorld) room(more ...channel.Option[grantRoom]) *channel.Handler {
	return channel.Define(w.join, append(more, channel.On("do", w.do), channel.Intercept("out", w.out))...)
}

// locked calls f with the lock, and counts it in seq.
func (w *grantWorld) locked(f func()) (seq int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seq++
	f()
	return w.seq
}

func (w *grantWorld) intN(n int) (v int) {
	w.locked(func() { v = w.rnd.IntN(n) })
	return v
}

// pause waits for up to n ms, often not at all.
func (w *grantWorld) pause(n int) {
	if d := w.intN(2*n) - n; d > 0 {
		time.Sleep(time.Duration(d) * time.Millisecond)
	}
}

// newGrant makes a grant for a user, of the newest generation or, seldom, of the one before. It
// returns the token that stands for it.
func (w *grantWorld) newGrant(user string) (g *madeGrant, token string) {
	w.locked(func() {
		w.numbers++
		life := time.Duration(100+w.rnd.IntN(2000)) * time.Millisecond
		g = &madeGrant{n: w.numbers, user: user, generation: w.least[user], begun: w.seq, expires: time.Now().Add(life)}
		if w.rnd.IntN(8) == 0 && g.generation > 0 {
			g.generation--
		}
		w.grants[g.n] = g
	})
	return g, strconv.Itoa(g.n)
}

// verify decides early or late, so that a revocation may come in between.
func (w *grantWorld) verify(_ context.Context, token string, _ *Request) (Grant, error) {
	w.pause(3)
	n, err := strconv.Atoi(token)
	if err != nil {
		return Grant{}, err
	}
	var g *madeGrant
	accepted := false
	w.locked(func() { g = w.grants[n]; accepted = g.generation >= w.least[g.user] })
	w.pause(3)
	if !accepted {
		return Grant{}, push.Reason("revoked")
	}
	return g.grant(), nil
}

type grantNumber struct{}

func (g *madeGrant) grant() Grant {
	if g.n == 0 {
		return Grant{}
	}
	return Grant{
		ID: g.user, Expires: g.expires, Claims: map[string]int{"n": g.n},
		Context: context.WithValue(context.Background(), grantNumber{}, g.n),
	}
}

// called records a call. The function that it returns checks that the grant is the same at its end.
func (w *grantWorld) called(what string, r *grantRoom, ctx context.Context, c *channel.Channel, message int) func() {
	number := func(ctx context.Context) (n int) {
		if _, ok := GrantFrom(ctx); ok {
			n, _ = ctx.Value(grantNumber{}).(int)
		}
		return n
	}
	n := number(ctx)
	w.locked(func() {
		if r.number == 0 {
			w.numbers++
			info, _ := InfoFrom(ctx)
			r.number, r.session = w.numbers, info.ConnectionID
		}
		w.calls = append(w.calls, grantCall{what, r.session, c.Topic(), r.number, message, n, time.Now()})
	})
	return func() {
		info, _ := InfoFrom(ctx)
		user := ""
		w.locked(func() { user = w.grants[n].user })
		if now := number(c.Context()); now != n || info.Subject != user {
			w.t.Errorf("seed %d: during %s, grant %d of %q became %d of %q", w.seed, what, n, user, now, info.Subject)
		}
	}
}

func (w *grantWorld) join(
	r *grantRoom, ctx context.Context, c *channel.Channel, p struct{ Message, Sleep int },
) (any, error) {
	defer w.called("join", r, ctx, c, p.Message)()
	time.Sleep(time.Duration(p.Sleep) * time.Millisecond)
	return nil, nil
}

// do is what a client asks for: time, a broadcast, and another grant, from the server.
func (w *grantWorld) do(r *grantRoom, ctx context.Context, c *channel.Channel, p struct {
	Message, Sleep int
	Shout          bool
	Become         *int
},
) (push.Reply, error) {
	defer w.called("do", r, ctx, c, p.Message)()
	time.Sleep(time.Duration(p.Sleep) * time.Millisecond)
	if p.Become != nil {
		if err := w.become(ctx, *p.Become); err != nil {
			return push.NoReply, push.Reason("no grant")
		}
	}
	if p.Shout {
		return push.OK(nil), c.Broadcast("out", nil)
	}
	return push.OK(nil), nil
}

// become gives the connection another grant.
func (w *grantWorld) become(ctx context.Context, n int) error {
	w.deciding.RLock()
	defer w.deciding.RUnlock()
	var g *madeGrant
	accepted := false
	w.locked(func() {
		g = w.grants[n]
		accepted = n == 0 || g.generation >= w.least[g.user]
	})
	if !accepted {
		return push.Reason("revoked")
	}
	return Authenticate(ctx, g.grant())
}

func (w *grantWorld) out(r *grantRoom, ctx context.Context, c *channel.Channel, _ serializer.Payload) error {
	w.called("out", r, ctx, c, 0)()
	return nil
}

func (w *grantWorld) ask(r *grantRoom, ctx context.Context, c *channel.Channel) error {
	w.called("ask", r, ctx, c, 0)()
	if w.intN(4) == 0 {
		return push.Reason("no longer")
	}
	return nil
}

// Send, Close, Congested and Drained are part of transport.Conn.
func (g *grantSession) Send(f *serializer.Frame, _ transport.Delivery) error {
	m, err := serializer.V2().ParseClient(serializer.OpText, f.Data)
	if err != nil {
		return err
	}
	isTold := m.Event == eventAuth || m.Event == serializer.EventReply && m.Ref != serializer.StringRef("own")
	if m.Topic != topicSocket || !isTold {
		return nil
	}
	var state struct {
		State  string
		Claims struct{ N int }
	}
	if m.Payload.Decode(&state) == nil && state.State != "" {
		g.w.locked(func() { g.told = append(g.told, toldGrant{state.Claims.N, g.w.seq, time.Now()}) })
	}
	return nil
}

func (g *grantSession) Close(int, string) {
	g.w.locked(func() {
		if g.closed.IsZero() {
			g.closed = time.Now()
		}
	})
}

func (g *grantSession) Congested(func()) bool { return false }
func (g *grantSession) Drained(func()) bool   { return true }

// open plays a handshake. It returns nil if it was refused.
func (w *grantWorld) open(user string) *grantSession {
	h := w.nodes[w.intN(2)]
	g := &grantSession{w: w}
	w.locked(func() { w.numbers++; g.id = fmt.Sprint("session", w.numbers) })
	made, token := new(madeGrant), ""
	if user != "" {
		made, token = w.newGrant(user)
	}
	who := identity{connection: g.id, client: testClient}
	r := &Request{Token: token, ConnectionID: g.id, ClientID: testClient, Version: "2.0.0"}
	if h.identify(context.Background(), r, nil, &who) != nil {
		if who.id != nil {
			who.id.on.Cancel()
		}
		return nil
	}
	w.pause(3)
	w.locked(func() {
		w.sessions[g.id] = g
		g.told = []toldGrant{{made.n, w.seq, time.Now()}}
		g.calm = w.rnd.IntN(3) == 0
	})
	g.s = h.open(g, serializer.V2(), who)
	return g
}

// send sends a message with a number of its own.
func (g *grantSession) send(ref, topic, event string, fields map[string]any) {
	m, n := &sentMessage{at: time.Now()}, 0
	m.begin = g.w.locked(func() {
		g.w.numbers++
		n = g.w.numbers
		g.w.messages[n] = m
	})
	if ref == "" {
		ref = strconv.Itoa(n)
	}
	fields["message"] = n
	joinRef := any(nil)
	if event == serializer.EventJoin {
		joinRef = ref
	}
	b, err := json.Marshal([]any{joinRef, ref, topic, event, fields})
	if err == nil {
		err = g.s.Receive(serializer.OpText, b)
	}
	if err != nil {
		g.w.t.Errorf("seed %d: %v", g.w.seed, err)
	}
	g.w.locked(func() { m.end = g.w.seq })
}

// live is a client: it connects again and again until ctx ends.
func (w *grantWorld) live(ctx context.Context) {
	for ctx.Err() == nil {
		user := []string{"", "ann", "bob"}[w.intN(3)]
		g := w.open(user)
		if g == nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		g.send("own", topicSocket, "phx_join", map[string]any{})
		for isOpen := true; isOpen && ctx.Err() == nil && w.intN(400) > 0; {
			g.act()
			w.pause(20)
			w.locked(func() { isOpen = g.closed.IsZero() })
		}
		g.Close(0, "") // its grant counts no more
		g.s.Closed(nil)
	}
}

func (g *grantSession) act() {
	w := g.w
	topic := []string{"room:1", "room:2", "safe:1", "safe:2"}[w.intN(4)]
	user := []string{"ann", "ann", "bob"}[w.intN(3)]
	what := w.intN(10)
	if g.calm && (what == 3 || what == 4) {
		what = 5
	}
	switch what {
	case 0, 1, 2:
		g.send("", topic, "phx_join", map[string]any{"sleep": w.intN(3) * w.intN(10)})
	case 3:
		_, token := w.newGrant(user)
		g.send("", topicSocket, "token", map[string]any{"token": token})
	case 4:
		g.send("", topicSocket, "token", map[string]any{"token": nil})
	case 5:
		g.send("", topic, "phx_leave", map[string]any{})
	default:
		do := map[string]any{"sleep": w.intN(3) * w.intN(10), "shout": w.intN(5) == 0}
		switch what := w.intN(6); {
		case g.calm:
		case what == 0:
			do["become"] = 0
		case what == 1:
			made, _ := w.newGrant(user)
			do["become"] = made.n
		}
		for range 1 + w.intN(3) { // so that messages wait
			g.send("", topic, "do", do)
			delete(do, "become")
		}
	}
}

// rule is what the program does: it revokes, kicks and asks.
func (w *grantWorld) rule(ctx context.Context) {
	for ; ctx.Err() == nil; w.pause(150) {
		h, user := w.nodes[w.intN(2)], []string{"ann", "bob"}[w.intN(2)]
		var err error
		switch w.intN(4) {
		case 0:
			topic := []string{"room:1", "safe:2"}[w.intN(2)]
			err = h.Kick(ctx, topic, Member{ID: user}, "kicked")
			w.locked(func() { w.kicks = append(w.kicks, grantKick{topic, user, time.Now()}) })
		case 1:
			err = h.Reauthorize(ctx, user)
		default:
			w.deciding.Lock()
			w.locked(func() { w.least[user]++ }) // first Verify refuses it
			w.deciding.Unlock()
			err = h.Revoke(ctx, user, "revoked")
			w.locked(func() { w.revoked[user] = append(w.revoked[user], time.Now()) })
		}
		if err != nil && ctx.Err() == nil {
			w.t.Errorf("seed %d: %v", w.seed, err)
		}
	}
}

// run runs the world for some time and returns what was wrong.
func runGrants(t *testing.T, seed uint64) (wrong []string) {
	cluster := pubsubtest.NewCluster()
	ran, stop := context.WithCancel(context.Background())
	var nodes [2]*pubsub.PubSub
	var running sync.WaitGroup
	for i := range nodes {
		nodes[i] = pubsub.New(cluster.Node(fmt.Sprint("node", i)))
		running.Go(func() {
			if err := nodes[i].Run(ran); err != nil {
				t.Error(err)
			}
		})
	}
	synctest.Wait()
	w := newGrantWorld(t, seed, nodes)
	busy, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	var actors sync.WaitGroup
	for range 5 {
		actors.Go(func() { w.live(busy) })
	}
	actors.Go(func() { w.rule(busy) })
	actors.Wait()
	for _, h := range w.nodes {
		if err := h.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	}
	stop()
	running.Wait()
	return w.check()
}

func (c grantCall) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s of message %d in channel %d of %s", c.what, c.message, c.channel, c.session))
}
