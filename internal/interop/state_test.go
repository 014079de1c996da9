package interop_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/testenv/guide"
	"bennu.example/internal/testenv/race"
	"bennu.example/socket"
	"bennu.example/state"
	"bennu.example/state/mirror"
	"bennu.example/transport/longpoll"
)

const stateGuide = "../../docs/state-clients.md"

// stateCode returns the functions of the guide.
func stateCode(t *testing.T) string {
	var code strings.Builder
	for _, b := range guide.Blocks(t, stateGuide, "js") {
		if strings.Contains(b, "function open") {
			code.WriteString(b)
		}
	}
	return code.String()
}

var stateUpdates = flag.Int("updates", 0, "how many updates each client of TestSharedState makes; "+
	"0 means 40, and 500 if NIGHTLY is true")

// stateServer serves shared objects on one port for each client, so that the test can cut the
// connections of each.
type stateServer struct {
	t       *testing.T
	store   *state.Memory
	objects *state.Objects
	ports   []*listener
}

const (
	countTopic = "doc:count"
	boardTopic = "map:board"
	listTopic  = "list:todo"
	treeTopic  = "tree:game"
)

// rowTopics are those of objects with rows.
var rowTopics = []string{boardTopic, listTopic, treeTopic}

func newStateServer(t *testing.T, ports int) *stateServer {
	t.Helper()
	store := state.NewMemory(state.MemoryConfig{})
	s := &stateServer{t: t, store: store, objects: state.New(store)}
	cfg := state.Config{Allow: func(context.Context, *channel.Channel, state.Access) error { return nil }}
	nop := zerolog.Nop()
	h := socket.NewHandler(socket.Config{
		Channels: channel.Routes{
			"doc:*": s.objects.Documents(cfg), "map:*": s.objects.Maps(cfg),
			"list:*": s.objects.Lists(cfg), "tree:*": s.objects.Trees(cfg),
		},
		InsecureAnyOrigin: true, // pages come from another port
		LongPoll:          longpoll.Config{Window: 2 * time.Second},
		Logger:            &nop,
	})
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var served sync.WaitGroup
	for range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := &listener{Listener: l, open: map[net.Conn]struct{}{}}
		s.ports = append(s.ports, port)
		served.Go(func() { _ = srv.Serve(port) })
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		for _, port := range s.ports {
			port.reset()
		}
		if err := h.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		_ = srv.Close()
		served.Wait()
	})
	return s
}

func (s *stateServer) url(port int) string {
	return "ws://" + s.ports[port].Addr().String() + "/socket"
}

// cut cuts random connections until ctx ends. It returns how many.
func (s *stateServer) cut(ctx context.Context, every time.Duration) (cuts int) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			port := s.ports[rand.IntN(len(s.ports))]
			if rand.IntN(2) == 0 {
				port.reset()
			} else {
				port.hangUp()
			}
			cuts++
		case <-ctx.Done():
			return cuts
		}
	}
}

// count is the value of the document.
type count struct {
	N    int  `json:"n"`
	Done bool `json:"done,omitempty"` // the clients report it
}

// goSharer is a Go client with a mirror of each object.
type goSharer struct {
	doc   *mirror.Document[count]
	board *mirror.Map[any]
	list  *mirror.List[any]
	tree  *mirror.Tree
	name  string
	f     *sharers
}

// known returns nil for the error of a write of which nobody knows whether it was applied, and
// counts it.
func (g *goSharer) known(topic string, err error) error {
	if !errors.Is(err, history.ErrUncertain) {
		return err
	}
	g.f.mu.Lock()
	defer g.f.mu.Unlock()
	g.f.uncertain[g.name+" "+topic]++
	return nil
}

func (s *stateServer) goClient(ctx context.Context, port int) (g goSharer, err error) {
	nop := zerolog.Nop()
	c := socket.NewClient(s.url(port), &socket.ClientConfig{
		ReconnectDelay: func(socket.Retry) time.Duration { return 10 * time.Millisecond },
		RejoinAfter:    func(int) time.Duration { return 20 * time.Millisecond },
		Logger:         &nop,
	})
	c.Connect()
	s.t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = c.Close(end)
	})
	if g.doc, err = mirror.OpenDocument[count](ctx, c, countTopic, nil); err == nil {
		g.board, err = mirror.OpenMap[any](ctx, c, boardTopic, nil)
	}
	if err == nil {
		g.list, err = mirror.OpenList[any](ctx, c, listTopic, nil)
	}
	if err == nil {
		g.tree, err = mirror.OpenTree(ctx, c, treeTopic, nil)
	}
	return g, err
}

// work does what the clients in state.mjs do.
func (g goSharer) work(ctx context.Context, updates int) error {
	name := g.name
	for range updates {
		err := g.doc.Update(ctx, func(c *count) error { c.N++; return nil })
		if err := g.known(countTopic, err); err != nil {
			return err
		}
	}
	for i := range updates {
		shared := fmt.Sprintf("shared/%d", i%7)
		value := map[string]any{"client": name, "i": i}
		_, err := g.board.Batch(ctx, mirror.Op[any]{Key: fmt.Sprintf("%s/%d", name, i), Value: i},
			mirror.Op[any]{Key: shared, Value: value})
		err = g.known(boardTopic, err)
		if err == nil && i%3 == 0 {
			err = g.known(boardTopic, g.board.Delete(ctx, shared))
		}
		if err == nil && i%5 == 0 {
			_, err = g.board.Add(ctx, map[string]any{"client": name, "added": i})
			err = g.known(boardTopic, err)
		}
		if err == nil {
			err = g.board.Update(ctx, "sum", func(v *any) error {
				sum, _ := (*v).(map[string]any)
				if sum == nil {
					sum = map[string]any{}
				}
				n, _ := sum[name].(float64)
				sum[name] = n + 1
				*v = sum
				return nil
			})
			err = g.known(boardTopic, err)
		}
		if err != nil {
			return err
		}
	}
	if err := g.arrange(ctx, updates); err != nil {
		return err
	}
	return g.grow(ctx, updates)
}

// arrange does what the function of this name in state.mjs does.
func (g goSharer) arrange(ctx context.Context, updates int) error {
	before := ""
	for i := range updates {
		key, err := g.list.Insert(ctx, before, fmt.Sprintf("%s/%d", g.name, i))
		if err == nil && i%2 == 0 {
			key, err = g.list.Move(ctx, key, "")
		}
		if i%4 == 1 && err == nil {
			err = g.list.Delete(ctx, key)
		} else if err == nil {
			before = key
		}
		if err := g.known(listTopic, err); err != nil {
			return err
		}
	}
	return nil
}

// grow does what the function of this name in state.mjs does.
func (g goSharer) grow(ctx context.Context, updates int) error {
	name := g.name
	own, shared := g.tree.At(name), g.tree.At("shared")
	for i := range updates {
		at := fmt.Sprint(i)
		err := g.known(treeTopic, own.At("a").Set(ctx, map[string]any{at: map[string]int{"b": i}, "last": i}))
		if err == nil {
			counts := map[string]any{name + "/n": map[string]int{"$inc": 1}, name + "/a/" + at: nil}
			err = g.known(treeTopic, g.tree.At("").Merge(ctx, counts))
		}
		if err == nil && i%5 == 0 {
			_, err = own.At("log").Add(ctx, map[string]int{"i": i})
			err = g.known(treeTopic, err)
		}
		var value any = i
		if i%3 != 0 {
			value = map[string]any{name: map[string]int{at: i}}
		}
		if err == nil {
			err = g.known(treeTopic, shared.Set(ctx, value))
		}
		if err == nil && i%4 == 0 {
			err = g.known(treeTopic, shared.Clear(ctx))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// items returns what the mirrors of objects with rows have.
func (g goSharer) items(topic string) map[string]any {
	switch topic {
	case boardTopic:
		return maps.Collect(g.board.All())
	case listTopic:
		return maps.Collect(g.list.All())
	}
	items := map[string]any{}
	var add func(n mirror.Node)
	add = func(n mirror.Node) {
		children := n.Children()
		var v any
		if ok, err := n.Value(&v); ok && err == nil && len(children) == 0 {
			items[n.Path()] = v
		}
		for _, name := range children {
			add(n.At(name))
		}
	}
	add(g.tree.At(""))
	return items
}

// sharers collects the reports of the clients in JavaScript.
type sharers struct {
	t       *testing.T
	changed chan struct{} // has room for one

	mu     sync.Mutex
	done   map[string]bool
	counts map[string]int
	items  map[string]map[string]any // by client and topic
	// uncertain counts, by client and topic, the writes of which nobody knows whether they were
	// applied: the client was away for so long that the server may have forgotten them.
	uncertain map[string]int
}

// unsure returns how many writes of a client to a topic were uncertain.
func (f *sharers) unsure(client, topic string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.uncertain[client+" "+topic]
}

func (f *sharers) line(line string) {
	var events []struct {
		Client, Kind, Topic, Text string
		N                         int
		Items                     map[string]any
	}
	if err := json.Unmarshal([]byte(line), &events); err != nil {
		f.t.Logf("output: %s", line)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		switch e.Kind {
		case "done":
			f.done[e.Client] = true
		case "count":
			f.counts[e.Client] = e.N
		case "uncertain":
			f.uncertain[e.Client+" "+e.Topic]++
		case "items":
			f.items[e.Client+" "+e.Topic] = e.Items
		default:
			f.t.Errorf("%s: %s: %s", e.Client, e.Kind, e.Text)
		}
	}
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// await waits until done, which is called with mu held, returns true. It returns false if that
// takes too long.
func (f *sharers) await(ended <-chan struct{}, late time.Duration, done func() bool) bool {
	f.t.Helper()
	limit := time.After(late)
	for {
		f.mu.Lock()
		ok := done()
		f.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-f.changed:
		case <-ended:
			f.t.Fatal("the script ended")
		case <-limit:
			return false
		}
	}
}

// TestSharedState runs the code of the guide with stock phoenix.js, and as many Go clients, while
// connections are cut. All count in one document and write to one map. Each update counts once, and
// all copies equal the store's at the end.
func TestSharedState(t *testing.T) {
	t.Parallel()
	const clients = 4
	for name, v := range map[string]variant{
		"websocket":           {phoenix: "phoenix", transport: "websocket", vsn: "2.0.0"},
		"longpoll":            {phoenix: "phoenix", transport: "longpoll", vsn: "2.0.0"},
		"websocket, Chromium": {phoenix: "phoenix", transport: "websocket", vsn: "2.0.0", browser: true},
		"bennu.mjs":           {phoenix: "phoenix", transport: "websocket", vsn: "2.0.0", addOn: true},
		"bennu.mjs, Chromium": {phoenix: "socket.mjs", transport: "websocket", vsn: "2.0.0", addOn: true, browser: true},
	} {
		if v.browser && race.Enabled {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			updates := *stateUpdates
			if updates == 0 {
				if updates = 40; nightly {
					updates = 500
				}
			}
			every, timeout := 40*time.Millisecond, 400
			if v.transport == "longpoll" { // a cut costs the stock client a second or more
				updates, every, timeout = updates/4, time.Second, 1000
			}
			s := newStateServer(t, 2*clients)
			f := &sharers{
				t: t, changed: make(chan struct{}, 1),
				done: map[string]bool{}, counts: map[string]int{}, items: map[string]map[string]any{},
				uncertain: map[string]int{},
			}
			urls := map[string]string{}
			for i := range clients {
				urls[fmt.Sprintf("js%d", i)] = s.url(i)
			}
			ended := v.start(t, map[string]any{
				"task": "share", "urls": urls, "updates": updates, "timeout": timeout, "addOn": v.addOn,
			}, f.line)

			ctx, cancel := context.WithTimeout(t.Context(), 10*limit)
			defer cancel()
			cutting, calm := context.WithCancel(ctx)
			defer calm()
			cuts := make(chan int, 1)
			go func() { cuts <- s.cut(cutting, every) }()
			var work sync.WaitGroup
			sharers := make([]goSharer, clients)
			for i := range sharers {
				work.Go(func() {
					name := fmt.Sprintf("go%d", i)
					var err error
					if sharers[i], err = s.goClient(ctx, clients+i); err == nil {
						sharers[i].name, sharers[i].f = name, f
						err = sharers[i].work(ctx, updates)
					}
					if err != nil {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
			work.Wait()
			if !f.await(ended, 10*limit, func() bool { return len(f.done) == clients }) {
				f.mu.Lock()
				defer f.mu.Unlock()
				t.Fatalf("only %v have done their work", slices.Collect(maps.Keys(f.done)))
			}
			calm()
			n := <-cuts

			final := f.end(s)
			unsure := 0
			for i := range clients {
				unsure += f.unsure(fmt.Sprint("js", i), countTopic) + f.unsure(fmt.Sprint("go", i), countTopic)
			}
			if want := 2 * clients * updates; final > want || final < want-unsure {
				t.Errorf("the store counts %d, want %d; %d updates are uncertain", final, want, unsure)
			}
			items := map[string]map[string]any{}
			for _, topic := range rowTopics {
				items[topic] = s.items(topic)
			}
			equal := func() bool {
				for name := range urls {
					for topic, want := range items {
						if f.counts[name] != final || !reflect.DeepEqual(f.items[name+" "+topic], want) {
							return false
						}
					}
				}
				return true
			}
			if !f.await(ended, limit, equal) {
				f.mu.Lock()
				for name := range urls {
					if f.counts[name] != final {
						t.Errorf("%s counts %d", name, f.counts[name])
					}
					for topic, want := range items {
						compareItems(t, name+" "+topic, f.items[name+" "+topic], want)
					}
				}
				f.mu.Unlock()
			}
			for i, g := range sharers {
				if g.tree == nil {
					continue
				}
				name := fmt.Sprintf("go%d", i)
				awaitCopy(t, g.doc.Changes, func() bool { v, _ := g.doc.Value(); return v.Done })
				awaitCopy(t, g.board.Changes, func() bool { _, rev := g.board.Get("mark"); return rev > 0 })
				if v, _ := g.doc.Value(); v.N != final {
					t.Errorf("%s counts %d", name, v.N)
				}
				awaitCopy(t, g.list.Changes, func() bool { return g.items(listTopic)["mark"] != nil })
				awaitCopy(t, g.tree.Changes, func() bool { return g.items(treeTopic)["mark"] != nil })
				for topic, want := range items {
					compareItems(t, name+" "+topic, g.items(topic), want)
				}
			}
			f.checkItems(items[boardTopic], clients, updates)
			f.checkRows(items[listTopic], items[treeTopic], clients, updates)
			t.Logf("%d updates and %d items under %d cuts, uncertain: %v", final, len(items[boardTopic]), n, f.uncertain)
			if n == 0 {
				t.Error("nothing was cut")
			}
		})
	}
}

// end marks both objects, so that the clients report them, and returns the count.
func (f *sharers) end(s *stateServer) (final int) {
	ctx := context.Background()
	_, err := state.Update(ctx, s.objects, countTopic, "", func(c *count) error {
		c.Done = true
		final = c.N
		return nil
	})
	for _, topic := range rowTopics {
		if err == nil {
			_, err = s.objects.Apply(ctx, topic, []state.Op{{Key: "mark", Value: []byte("1")}}, state.Tx{})
		}
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return final
}

// items returns what an object has in the store.
func (s *stateServer) items(topic string) map[string]any {
	items := map[string]any{}
	next := ""
	for {
		p, err := s.store.Read(context.Background(), topic, state.Range{}, next, 1000)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, it := range p.Items {
			var v any
			if err := json.Unmarshal(it.Value, &v); err != nil {
				s.t.Fatal(err)
			}
			items[strings.ReplaceAll(it.Key, "\x01", "/")] = v
		}
		if next = p.Next; next == "" {
			return items
		}
	}
}
