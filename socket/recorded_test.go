package socket_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/wstest"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// recordedServer is a server that records room:*, with a small queue for each client.
func recordedServer(t *testing.T) (*server, *pubsub.PubSub) {
	t.Helper()
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{MaxBytes: 256 << 20}), history.Rules{
		"room:*": {Count: 100_000, Bytes: 100 << 20, MaxReplay: 100_000},
	})
	return serve(t, socket.Config{PubSub: ps, MaxQueue: 64 << 10, Channels: channel.Routes{
		"room:*": echoes(onEvent("hush",
			func(_ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
				return push.OK(nil), c.BroadcastFrom("hush", p)
			})),
	}, JoinRate: -1}), ps
}

// recordCounter checks that the records of each topic arrive in order, each once.
type recordCounter struct {
	t    *testing.T
	next map[string]int
	pos  map[string]string
	all  int
}

func newRecordCounter(t *testing.T) *recordCounter {
	return &recordCounter{t: t, next: map[string]int{}, pos: map[string]string{}}
}

// read handles a frame. It returns the event.
func (c *recordCounter) read(frame []byte) string {
	c.t.Helper()
	m, err := serializer.V2().ParseClient(serializer.OpText, frame)
	if err != nil {
		c.t.Fatal(err)
	}
	var p struct {
		Pos     string `json:"$pos"`
		N       int
		History struct{ Pos string } `json:"$history"`
	}
	if err := m.Payload.Decode(&p); err != nil {
		c.t.Fatalf("%q: %v", frame, err)
	}
	switch m.Event {
	case "msg":
		if p.N != c.next[m.Topic] || p.Pos == "" {
			c.t.Fatalf("%s: record %d at %q, want %d", m.Topic, p.N, p.Pos, c.next[m.Topic])
		}
		c.next[m.Topic]++
		c.pos[m.Topic] = p.Pos
		c.all++
	case "phx_reply":
		c.pos[m.Topic] = p.History.Pos
	default:
		c.t.Fatalf("frame %q", frame)
	}
	return m.Event
}

// TestSlowClientLosesNoRecord broadcasts far more than the queue of a client that does not read.
// The connection stays, and everything arrives when the client reads, by WebSocket and by long
// polling.
func TestSlowClientLosesNoRecord(t *testing.T) {
	t.Parallel()
	const records = 2000
	pad := strings.Repeat("x", 1000)
	fill := func(ps *pubsub.PubSub, first int) {
		for n := first; n < first+records; n++ {
			if err := ps.Broadcast(t.Context(), "room:1", "msg", map[string]any{"n": n, "pad": pad}); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("websocket", func(t *testing.T) {
		t.Parallel()
		s, ps := recordedServer(t)
		conn, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.Send([]byte(`["1","1","room:1","phx_join",{"$history":{}}]`)); err != nil {
			t.Fatal(err)
		}
		c := newRecordCounter(t)
		reply, err := conn.Text()
		if err != nil {
			t.Fatal(err)
		}
		c.read(reply)
		for round := range 3 {
			fill(ps, round*records)
			for c.all < (round+1)*records {
				frame, err := conn.Text()
				if err != nil {
					t.Fatalf("after %d records: %v", c.all, err)
				}
				c.read(frame)
			}
		}
		if st := s.h.Stats().WebSocket; st.Slow != 0 || st.Dropped != 0 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("longpoll", func(t *testing.T) {
		t.Parallel()
		s, ps := recordedServer(t)
		p := s.poll("")
		p.post(`["1","1","room:1","phx_join",{"$history":{}}]`)
		c := newRecordCounter(t)
		poll := func() {
			var answer struct{ Messages []string }
			if err := json.Unmarshal([]byte(p.get()), &answer); err != nil {
				t.Fatal(err)
			}
			for _, m := range answer.Messages {
				c.read([]byte(m))
			}
		}
		for c.pos["room:1"] == "" {
			poll()
		}
		for round := range 2 {
			fill(ps, round*records)
			for start := time.Now(); c.all < (round+1)*records; {
				poll()
				if time.Since(start) > patience {
					t.Fatalf("%d records after %v", c.all, patience)
				}
			}
		}
		if st := s.h.Stats().LongPoll; st.Slow != 0 || st.Dropped != 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestManyRejoinsShareAQueue lets one connection join many topics whose missed records are many
// times what its queue holds.
func TestManyRejoinsShareAQueue(t *testing.T) {
	t.Parallel()
	const topics, records = 50, 200
	s, ps := recordedServer(t)
	dial := func() *wstest.Conn {
		conn, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket?vsn=2.0.0")
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	c := newRecordCounter(t)
	join := func(conn *wstest.Conn) {
		for i := range topics {
			topic := fmt.Sprint("room:", i)
			ask := `{}`
			if pos := c.pos[topic]; pos != "" {
				ask = fmt.Sprintf(`{"since":%q}`, pos)
			}
			if err := conn.Send(fmt.Appendf(nil, `["%d","%d",%q,"phx_join",{"$history":%s}]`, i, i, topic, ask)); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(conn *wstest.Conn, event string, n int) {
		for n > 0 {
			frame, err := conn.Text()
			if err != nil {
				t.Fatal(err)
			}
			if c.read(frame) == event {
				n--
			}
		}
	}
	conn := dial()
	join(conn)
	read(conn, "phx_reply", topics)
	conn.Close()
	pad := strings.Repeat("x", 500)
	for n := range records {
		for i := range topics {
			if err := ps.Broadcast(t.Context(), fmt.Sprint("room:", i), "msg", map[string]any{"n": n, "pad": pad}); err != nil {
				t.Fatal(err)
			}
		}
	}
	conn = dial()
	defer conn.Close()
	join(conn)
	read(conn, "msg", topics*records)
	if st := s.h.Stats().WebSocket; st.Slow != 0 || st.Dropped != 0 {
		t.Errorf("%+v", st)
	}
}

// TestClientIDOfRecords checks that the connect parameter $client identifies the client that sent a
// record, and that a client without one has an id that the server made.
func TestClientIDOfRecords(t *testing.T) {
	t.Parallel()
	s, ps := recordedServer(t)
	for _, id := range []string{"abcdefghijklmnop", "ABCDEFGH_12345-z", strings.Repeat("a", 64), ""} {
		query := "?vsn=2.0.0"
		if id != "" {
			query += "&$client=" + id
		}
		conn, err := wstest.Dial(s.url[len("http://"):], "/socket/websocket"+query, "Origin: "+s.url)
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.Send([]byte(`["1","1","room:1","phx_join",{}]`)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Text(); err != nil {
			t.Fatal(err)
		}
		if err := conn.Send([]byte(`["1","2","room:1","hush",{}]`)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Text(); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		b, err := ps.Before(t.Context(), "room:1", history.Position{}, 1)
		if err != nil || len(b.Records) != 1 {
			t.Fatal(b, err)
		}
		if from := b.Records[0].From; id != "" && from != id || len(from) < 16 {
			t.Errorf("the client %q was recorded as %q", id, from)
		}
	}
}

// TestOwnRecordsOfUser checks that a client's own records are those of its user: another user who
// gives the same client id cannot make records that the client does not get in a replay.
func TestOwnRecordsOfUser(t *testing.T) {
	t.Parallel()
	ps := pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), history.Rules{"room:*": {Count: 100}})
	s := serve(t, socket.Config{
		PubSub: ps,
		Connect: func(ctx context.Context, r *socket.Request) (context.Context, error) {
			var params struct{ User string }
			err := r.Params.Decode(&params)
			r.ID = params.User
			return ctx, err
		},
		Channels: channel.Routes{"room:*": echoes(onEvent("hush",
			func(_ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
				return push.OK(nil), c.BroadcastFrom("hush", p)
			}))},
	})
	const stolen = "client-of-ann-01"
	long := strings.Repeat("u", 5000)
	for _, user := range []string{"ann", "eve", "", "ann", long, "ann.x"} {
		p := s.dial("vsn=2.0.0&$client=" + stolen + "&user=" + user)
		p.join("room:1")
		p.send(fmt.Sprintf(`["1","2","room:1","hush",{"by":%q}]`, user))
		p.want(`["1","2","room:1","phx_reply",{"status":"ok","response":{}}]`)
	}
	for _, test := range []struct{ user, client, want string }{
		{"ann", stolen, "[eve  " + long + " ann.x]"},
		{"ann", "client-of-ann-02", "[ann eve  ann " + long + " ann.x]"},
		{"eve", stolen, "[ann  ann " + long + " ann.x]"},
		{"", stolen, "[ann eve ann " + long + " ann.x]"},
		{long, stolen, "[ann eve  ann ann.x]"},
	} {
		p := s.dial("vsn=2.0.0&$client=" + test.client + "&user=" + test.user)
		p.send(`["1","1","room:1","phx_join",{"$history":{"last":10,"own":false}}]`, `["1","2","room:1","echo",{}]`)
		var got []string
		for {
			frame, err := p.read()
			if err != nil {
				t.Fatal(err)
			}
			m, err := serializer.V2().ParseClient(serializer.OpText, []byte(frame))
			if err != nil {
				t.Fatal(err)
			}
			if m.Event == "hush" {
				var body struct{ By string }
				if err := m.Payload.Decode(&body); err != nil {
					t.Fatal(err)
				}
				got = append(got, body.By)
			}
			if m.Ref == serializer.StringRef("2") {
				break
			}
		}
		if fmt.Sprint(got) != test.want {
			t.Errorf("%.10q as %s: %.100q, want %.100q", test.user, test.client, got, test.want)
		}
	}
	b, err := ps.Before(t.Context(), "room:1", history.Position{}, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range b.Records {
		if len(r.From) > 64+20 || strings.Contains(r.From, "eve") {
			t.Errorf("recorded as from %q", r.From)
		}
	}
}
