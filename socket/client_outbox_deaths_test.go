package socket_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bennu.example/channel"
	"bennu.example/channeltest"
	"bennu.example/offline"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// effects counts what the handler of TestOutboxDeaths has done.
type effects struct {
	mu   sync.Mutex
	byID map[string]int
	list []string // the texts of the messages, by topic, at their first effect
}

func (f *effects) add(topic, id, text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byID[id]++; f.byID[id] == 1 {
		f.list = append(f.list, topic+" "+text)
	}
}

func (f *effects) handler(once bool) *channel.Handler {
	type none struct{}
	type msg struct {
		N  string `json:"n"`
		ID string `json:"id"`
	}
	options := []channel.Option[none]{
		channel.On("msg", func(_ *none, _ context.Context, c *channel.Channel, m msg) (push.Reply, error) {
			f.add(c.Topic(), m.ID, m.N)
			return push.OK(map[string]string{"n": m.N}), nil
		}),
	}
	if once {
		options = append(options, channel.Once[none](push.OnceConfig{}))
	}
	return channel.Define(func(*none, context.Context, *channel.Channel, struct{}) (any, error) { return nil, nil },
		options...)
}

// mortalStore is the store of a process that dies at one of its commits.
type mortalStore struct {
	offline.Store
	mu     sync.Mutex
	at     int // the number of the commit, from 1; zero means never
	after  bool
	calls  int
	isDead bool
	died   func()
}

var errDead = errors.New("the process is dead")

func (s *mortalStore) Apply(ctx context.Context, identity string, ops []offline.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.isDead {
		return errDead
	}
	if s.calls != s.at {
		return s.Store.Apply(ctx, identity, ops)
	}
	var err error
	if s.after {
		err = s.Store.Apply(ctx, identity, ops)
	}
	s.isDead = true
	s.died()
	return errors.Join(err, errDead)
}

func (s *mortalStore) dead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.isDead
}

// TestOutboxDeaths lets the process of a client die at each of its commits in turn, before or after
// it. Each push that was stored is answered in this process or the next one. With Once, it has one
// effect, and otherwise at least one. A commit is atomic, so a death within it is one of the two.
func TestOutboxDeaths(t *testing.T) {
	t.Parallel()
	for _, once := range []bool{true, false} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("Once %t, after the commit %t", once, after), func(t *testing.T) {
				t.Parallel()
				deaths := 0
				for at := 1; outboxDeath(t, at, after, once); at++ {
					deaths++
				}
				if deaths < 10 {
					t.Errorf("the process died only %d times", deaths)
				}
			})
		}
	}
}

// outboxDeath runs a client that dies at a commit, and the next one. It returns false if the first
// one did not die.
func outboxDeath(t *testing.T, at int, after, once bool) (died bool) {
	synctest.Test(t, func(t *testing.T) {
		f := &effects{byID: make(map[string]int)}
		server := channeltest.Start(t, socket.Config{Channels: channel.Routes{"room:*": f.handler(once)}})
		disk := offline.NewMemory()
		var mu sync.Mutex
		accepted, delivered := map[string]bool{}, map[string]int{}

		// process runs a client until it dies, or everything was delivered.
		process := func(store *mortalStore, work func(c *socket.Client, rooms []*channel.Client)) {
			dead := make(chan struct{})
			store.died = func() { close(dead) }
			c := socket.NewClient(server.URL, &socket.ClientConfig{
				HTTPClient: server.Network.HTTPClient(),
				Offline: &offline.Config{Store: store, OnDelivered: func(e offline.Entry, _ serializer.Payload, err error) {
					if store.dead() {
						return
					}
					mu.Lock()
					defer mu.Unlock()
					if delivered[e.ID]++; err != nil {
						t.Errorf("%s: %v", e.ID, err)
					}
				}},
			})
			c.Connect()
			rooms := []*channel.Client{c.Channel("room:1", nil), c.Channel("room:2", nil)}
			for _, room := range rooms {
				room.Join()
			}
			work(c, rooms)
			flushed := make(chan error, 1)
			go func() { flushed <- c.Flush(context.Background()) }()
			select {
			case <-dead:
				server.Network.Refuse()
				server.Network.Cut()
			case err := <-flushed:
				if err != nil {
					t.Error(err)
				}
				flushed <- nil
				synctest.Wait() // for the removals
			}
			gone, cancel := context.WithCancel(context.Background())
			cancel()
			if err := c.Close(gone); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			<-flushed
			server.Network.Restore()
		}
		push := func(store *mortalStore, room *channel.Client, n int) {
			id := fmt.Sprintf("%s-%d", room.Topic()[len("room:"):], n)
			_, err := room.PushDurable(t.Context(), "msg", map[string]string{"$id": id, "id": id, "n": fmt.Sprint(n)})
			switch {
			case err == nil && !store.dead():
				accepted[id] = true
			case err != nil && !store.dead():
				t.Errorf("%s: %v", id, err)
			}
		}

		first := &mortalStore{Store: disk, at: at, after: after}
		process(first, func(_ *socket.Client, rooms []*channel.Client) {
			push(first, rooms[0], 1) // one by one, and a lost connection in between
			push(first, rooms[0], 2)
			time.Sleep(time.Second)
			for n := 3; n <= 6; n++ {
				if n == 4 {
					server.Network.Cut()
				}
				push(first, rooms[n%2], n)
			}
		})
		died = first.dead()
		if died {
			next := &mortalStore{Store: disk}
			process(next, func(*socket.Client, []*channel.Client) {})
		}

		for id := range accepted {
			if delivered[id] == 0 {
				t.Errorf("death at %d: %s was stored and not delivered", at, id)
			}
		}
		for id, n := range f.byID {
			if once && n != 1 {
				t.Errorf("death at %d: %s had %d effects", at, id, n)
			}
		}
		for id := range delivered {
			if f.byID[id] == 0 {
				t.Errorf("death at %d: %s was delivered without effect", at, id)
			}
		}
		for _, topic := range []string{"room:1", "room:2"} {
			var order []string
			for _, text := range f.list {
				if text[:len(topic)] == topic {
					order = append(order, text)
				}
			}
			if !slices.IsSorted(order) {
				t.Errorf("death at %d: the order of the effects is %v", at, order)
			}
		}
		left := 0
		if err := disk.Load(t.Context(), "", func(_ offline.Entry, m *offline.Mirror) error {
			if m == nil {
				left++
			}
			return nil
		}); err != nil || left > 0 {
			t.Errorf("death at %d: %d entries are left, %v", at, left, err)
		}
		if !died && len(slices.Collect(maps.Keys(accepted))) != 6 {
			t.Errorf("accepted %v", accepted)
		}
	})
	return died
}
