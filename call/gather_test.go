package call_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/call"
	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/channelhost"
	"bennu.example/internal/mailbox"
	"bennu.example/pubsub"
	"bennu.example/pubsub/pubsubtest"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/transport"
)

// member is a client of the topic "room", without a network.
type member struct {
	channelhost.Carrier // panics if a method is called that is not defined below

	ps     *pubsub.PubSub
	name   string
	d      channelhost.Channel
	answer func(m *member, id string) // runs on a goroutine of its own; nil means that it never answers

	mu     sync.Mutex
	events []string // that it has received, without replies
}

func (m *member) Serializer() serializer.Serializer             { return serializer.V2() }
func (m *member) PubSub() *pubsub.PubSub                        { return m.ps }
func (m *member) Congested(channelhost.Channel) bool            { return false }
func (m *member) Drained(channelhost.Channel) bool              { return true }
func (m *member) Batch(f func())                                { f() }
func (m *member) Context() context.Context                      { return context.Background() }
func (m *member) ClientID() string                              { return "" }
func (m *member) Identity() (_, _, connection string)           { return "", "", m.name }
func (m *member) End(channelhost.Channel, ...*serializer.Frame) {}
func (*member) Arrive(context.Context, string) error            { return nil }
func (m *member) Answered()                                     {}
func (m *member) Ended()                                        {}

func (m *member) Send(f *serializer.Frame, _ transport.Delivery) error {
	got, err := serializer.V2().ParseClient(f.Op, f.Data)
	if err != nil || got.Kind == serializer.KindReply {
		return err
	}
	m.mu.Lock()
	m.events = append(m.events, got.Event)
	m.mu.Unlock()
	id, _, found := got.Payload.Cut("$call")
	var text string
	if found && id.Decode(&text) == nil && m.answer != nil {
		go m.answer(m, text)
	}
	return nil
}

func (m *member) push(event string, payload any) {
	body, _ := serializer.Value(payload).Encoded()
	mailbox.Started(m.d.Receive(serializer.Message{
		Ref: serializer.StringRef("2"), Topic: "room", Event: event, Payload: body,
	}, time.Second))
}

// replying returns an answer with a status.
func replying(status string, response any) func(*member, string) {
	return func(m *member, id string) {
		m.push("$reply", map[string]any{"$call": id, "status": status, "response": response})
	}
}

// named answers with the name of the client.
func named(m *member, id string) { replying(push.StatusOK, m.name)(m, id) }

// members are the clients of a test. They have left the topic when it ends.
type members struct {
	t       *testing.T
	workers mailbox.Workers
	all     []*member
}

func (ms *members) join(ps *pubsub.PubSub, name, params string, answer func(*member, string)) *member {
	m := &member{ps: ps, name: name, answer: answer}
	var body serializer.Payload
	if err := body.UnmarshalJSON([]byte(params)); err != nil {
		ms.t.Fatal(err)
	}
	m.d = channelhost.Start(m, channelhost.Join{
		Handler: room(), MaxMailbox: 1 << 20, Workers: &ms.workers,
		Message: serializer.Message{
			JoinRef: `"1"`, Ref: `"1"`, Topic: "room", Event: serializer.EventJoin, Payload: body,
		},
	})
	ms.all = append(ms.all, m)
	return m
}

const confirms = `{"$calls":["confirm"]}`

// gatherBubble runs f in virtual time with nodes of a cluster.
func gatherBubble(t *testing.T, nodes int, f func(ms *members, ps []*pubsub.PubSub, cut func(int))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cluster := pubsubtest.NewCluster()
		var adapters []*pubsubtest.Node
		var all []*pubsub.PubSub
		for range nodes {
			adapters = append(adapters, cluster.Node("n"))
			all = append(all, pubsub.New(adapters[len(all)]))
			pubsubtest.Start(t, all[len(all)-1])
		}
		ms := &members{t: t}
		defer func() {
			for _, m := range ms.all {
				m.d.Close(errors.New("the test has ended"))
				m.d.Wait()
			}
		}()
		f(ms, all, func(node int) { cluster.Cut(adapters[0], adapters[node]) })
	})
}

// gathered is what a Gather has yielded: by each client, and without one.
type gathered struct {
	answers map[string]string
	errs    map[string]error
	asked   int
	took    time.Duration
}

func gather(ctx context.Context, t *testing.T, ps *pubsub.PubSub, cfg call.GatherConfig) (g gathered) {
	t.Helper()
	synctest.Wait() // all have joined
	g.answers, g.errs = make(map[string]string), make(map[string]error)
	begun := time.Now()
	for a, err := range call.Gather(ctx, ps, "room", "confirm", map[string]int{"amount": 30}, cfg) {
		_, again := g.answers[a.Socket]
		if g.asked = a.Asked; again || g.errs[a.Socket] != nil {
			t.Errorf("%s was yielded twice", a.Socket)
		}
		if err != nil {
			g.errs[a.Socket] = err
			continue
		}
		g.answers[a.Socket] = string(a.Payload.Bytes())
	}
	g.took = time.Since(begun)
	return g
}

// TestGatherManyClients calls 1,000 clients on three nodes. Each answers once, and nobody else is
// asked.
func TestGatherManyClients(t *testing.T) {
	t.Parallel()
	gatherBubble(t, 3, func(ms *members, ps []*pubsub.PubSub, _ func(int)) {
		const n = 1000
		running, most := 0, 0
		var mu sync.Mutex
		count := func(d int) {
			mu.Lock()
			defer mu.Unlock()
			running += d
			most = max(most, running)
		}
		for i := range n {
			ms.join(ps[i%3], fmt.Sprint("client", i), confirms, func(m *member, id string) {
				count(1)
				time.Sleep(10 * time.Millisecond) // virtual
				count(-1)
				named(m, id)
			})
		}
		other := ms.join(ps[0], "without handler", `{"$calls":["other"]}`, named)
		stock := ms.join(ps[1], "without calls", `{}`, named)
		got := gather(ms.t.Context(), ms.t, ps[0], call.GatherConfig{Max: 2 * n})
		if len(got.answers) != n || len(got.errs) > 0 || got.asked != n {
			ms.t.Errorf("%d answers, errors %v, %d asked", len(got.answers), got.errs, got.asked)
		}
		for name, answer := range got.answers {
			if answer != fmt.Sprintf("%q", name) {
				ms.t.Errorf("%s has the answer %s", name, answer)
			}
		}
		if got.took < 500*time.Millisecond || got.took > time.Second {
			ms.t.Errorf("it took %v, want a quarter of Quiet after the last answer", got.took)
		}
		mu.Lock()
		if most > 3*256 {
			ms.t.Errorf("%d calls at a time", most)
		}
		mu.Unlock()
		if len(other.events)+len(stock.events) > 0 || !slices.Equal(ms.all[0].events, []string{"confirm"}) {
			ms.t.Errorf("received %v, %v, %v", other.events, stock.events, ms.all[0].events)
		}
		if got := gather(ms.t.Context(), ms.t, ps[1], call.GatherConfig{Max: 700}); len(got.answers) != 700 {
			ms.t.Errorf("%d answers, want Max", len(got.answers))
		}
		time.Sleep(time.Minute) // virtual: the calls end
	})
}

// TestGatherFailures has clients that fail in each way, a node that is not reached, and one that
// stops after it was asked.
func TestGatherFailures(t *testing.T) {
	t.Parallel()
	gatherBubble(t, 4, func(ms *members, ps []*pubsub.PubSub, cut func(int)) {
		cut(1)
		ms.join(ps[1], "on a node that is not reached", confirms, named)
		ms.join(ps[2], "on a node that stops", confirms, func(m *member, id string) {
			cut(2)
			named(m, id)
		})
		ms.join(ps[3], "refuses", confirms, replying("error", map[string]string{"reason": "busy"}))
		ms.join(ps[3], "leaves", confirms, func(m *member, _ string) {
			m.d.Leave(serializer.Message{Ref: `"9"`, Topic: "room", Event: serializer.EventLeave}, time.Second)
		})
		ms.join(ps[0], "never answers", confirms, nil)
		ms.join(ps[0], "answers", confirms, named)
		ms.join(ps[0], "answers in bytes", confirms, func(m *member, id string) {
			mailbox.Started(m.d.Receive(serializer.Message{
				Ref: `"2"`, Topic: "room", Event: "$reply:" + id, Payload: serializer.Binary([]byte("\x01\x02")),
			}, time.Second))
		})
		check := func(got gathered, took time.Duration) {
			ms.t.Helper()
			if len(got.answers) != 2 || got.answers["answers"] != `"answers"` || got.answers["answers in bytes"] != "\x01\x02" {
				ms.t.Errorf("answers: %q", got.answers)
			}
			if got.took < took || got.took > took+time.Second {
				ms.t.Errorf("it took %v, want %v", got.took, took)
			}
		}
		got := gather(ms.t.Context(), ms.t, ps[0], call.GatherConfig{})
		check(got, 2*time.Second)
		if len(got.errs) != 2 || !errors.Is(got.errs["refuses"], push.Reason("busy")) ||
			!errors.Is(got.errs["leaves"], channel.ErrClosed) {
			ms.t.Errorf("errors: %v", got.errs)
		}
		if err := got.errs["leaves"]; err == nil || !strings.HasPrefix(err.Error(), "call: gather confirm on room: ") {
			ms.t.Errorf("the error is %v", err)
		}
		check(gather(ms.t.Context(), ms.t, ps[0], call.GatherConfig{Quiet: time.Minute}), 10*time.Second)
		ctx, cancel := context.WithTimeout(ms.t.Context(), time.Second)
		defer cancel()
		check(gather(ctx, ms.t, ps[0], call.GatherConfig{}), time.Second)
		time.Sleep(time.Minute) // virtual: the calls end
	})
}

// TestGatherOverflow has a loop that stops while large answers arrive.
func TestGatherOverflow(t *testing.T) {
	t.Parallel()
	gatherBubble(t, 2, func(ms *members, ps []*pubsub.PubSub, _ func(int)) {
		const n = 100
		for i := range n {
			ms.join(ps[i%2], fmt.Sprint(i), confirms, replying(push.StatusOK, strings.Repeat("x", 100_000)))
		}
		synctest.Wait()
		answers, dropped := 0, 0
		for _, err := range call.Gather(ms.t.Context(), ps[0], "room", "confirm", nil, call.GatherConfig{}) {
			var overflow *channel.OverflowError
			switch {
			case errors.As(err, &overflow):
				dropped += overflow.Dropped
			case err != nil:
				ms.t.Error(err)
			default:
				answers++
			}
			if answers == 1 {
				time.Sleep(time.Second) // virtual
			}
		}
		time.Sleep(time.Minute) // virtual: the calls end
		if answers < 41 || answers > 43 || answers+dropped < n {
			ms.t.Errorf("%d answers, %d dropped", answers, dropped)
		}
	})
}

// TestGatherIsNotShown checks that neither the log nor callbacks see the question.
func TestGatherIsNotShown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log := history.NewMemory(history.MemoryConfig{})
		ps := pubsub.NewRecorded(nil, log, history.Rules{"room": {}})
		ms := &members{t: t}
		m := ms.join(ps, "ann", confirms, named)
		observer := &member{ps: ps, name: "observer"}
		observer.d = channelhost.Start(observer, channelhost.Join{
			Handler: channel.Define(
				func(_ *nobody, _ context.Context, c *channel.Channel, _ serializer.Payload) (any, error) {
					c.Subscribe("room")
					return nil, nil
				},
				channel.Info(func(_ *nobody, _ context.Context, _ *channel.Channel, b *pubsub.Broadcast) error {
					if b.Event != "first" {
						t.Errorf("Info received %s", b.Event)
					}
					return nil
				}),
				channel.Intercept("$gather",
					func(*nobody, context.Context, *channel.Channel, serializer.Payload) error {
						t.Error("the question was intercepted")
						return nil
					}),
			),
			MaxMailbox: 1 << 20, Workers: &ms.workers,
			Message: serializer.Message{JoinRef: `"1"`, Ref: `"1"`, Topic: "other", Event: serializer.EventJoin},
		})
		ms.all = append(ms.all, observer)
		for range 2 {
			if got := gather(t.Context(), t, ps, call.GatherConfig{}); got.answers["ann"] != `"ann"` || got.asked != 1 {
				t.Errorf("%+v", got)
			}
		}
		pos, err := ps.Append(t.Context(), "room", "first", nil)
		if err != nil || pos.Offset() != 1 {
			t.Errorf("the first record has the position %v, %v", pos, err)
		}
		synctest.Wait()
		if want := []string{"confirm", "confirm", "first"}; !slices.Equal(m.events, want) || len(observer.events) > 0 {
			t.Errorf("received %v and %v", m.events, observer.events)
		}
		for _, m := range ms.all {
			m.d.Close(errors.New("the test has ended"))
			m.d.Wait()
		}
	})
}

// TestGatherErrors checks what ends a Gather before it asks, and the end of the loop.
func TestGatherErrors(t *testing.T) {
	t.Parallel()
	gatherBubble(t, 1, func(ms *members, ps []*pubsub.PubSub, _ func(int)) {
		m := ms.join(ps[0], "ann", confirms, named)
		ms.join(ps[0], "bob", confirms, named)
		synctest.Wait()
		ctx := ms.t.Context()
		yielded := 0
		for _, err := range call.Gather(ctx, ps[0], "room", "confirm", []int{1}, call.GatherConfig{}) {
			if yielded++; !errors.Is(err, serializer.ErrPayload) {
				ms.t.Errorf("a payload that is not an object: %v", err)
			}
		}
		for _, err := range call.Gather(ctx, ps[0], "room", "phx_close", nil, call.GatherConfig{}) {
			if yielded++; err == nil {
				ms.t.Error("a reserved event was sent")
			}
		}
		if yielded != 2 {
			ms.t.Errorf("yielded %d times", yielded)
		}
		ended, cancel := context.WithCancel(ctx)
		cancel()
		for a, err := range call.Gather(ended, ps[0], "room", "confirm", nil, call.GatherConfig{}) {
			ms.t.Errorf("the context has ended: %v, %v", a, err)
		}
		if len(m.events) > 0 {
			ms.t.Errorf("received %v", m.events)
		}
		all := call.Gather(ctx, ps[0], "room", "confirm", nil, call.GatherConfig{})
		for range 2 {
			for _, err := range all {
				if err != nil {
					ms.t.Error(err)
				}
				break
			}
		}
		synctest.Wait()
		if len(m.events) != 2 {
			ms.t.Errorf("each loop asks once: %v", m.events)
		}
		for a, err := range call.Gather(ctx, ps[0], "nobody", "confirm", nil, call.GatherConfig{}) {
			ms.t.Errorf("a topic without members: %v, %v", a, err)
		}
	})
}
