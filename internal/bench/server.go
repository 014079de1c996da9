package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/centrifugal/centrifuge"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/internal/cputime"
	"bennu.example/pubsub"
	"bennu.example/push"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// state is the server's description of itself.
type state struct {
	CPU time.Duration
	RSS int // in bytes, after a garbage collection
}

// serve runs a server until it is killed. The first line of its output has its address, and that
// of its state.
func serve(kind string) error {
	about := http.NewServeMux()
	about.HandleFunc("/state", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("gc") {
			freeMemory()
		}
		json.NewEncoder(w).Encode(currentState())
	})
	mux := http.NewServeMux()
	switch kind {
	case "epoll":
	case "pool":
		mux.Handle("/", newPoolServer())
	case "bennu":
		mux.Handle("/socket/", bennu())
	case "centrifuge":
		h, err := centrifugeHandler()
		if err != nil {
			return err
		}
		mux.Handle("/connection/websocket", h)
	default:
		return fmt.Errorf("unknown server %q", kind)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	of, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr(), of.Addr())
	ended := make(chan error, 2)
	go func() { ended <- http.Serve(of, about) }()
	go func() {
		if kind == "epoll" {
			ended <- serveEpoll(l)
		} else {
			ended <- http.Serve(l, mux)
		}
	}()
	return <-ended
}

// freeMemory returns unused memory to the system.
func freeMemory() {
	debug.FreeOSMemory()
	debug.FreeOSMemory() // release what finalizers freed
}

func currentState() (s state) {
	s.CPU = cputime.Used()
	if statm, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(statm)); len(f) > 1 {
			pages, _ := strconv.Atoi(f[1])
			s.RSS = pages * os.Getpagesize()
		}
	}
	return s
}

// keptMessages and keptFor are what both servers keep of the topics with history.
const (
	keptMessages = 256
	keptFor      = time.Hour
)

// maxChannels is how many topics a client of either server may join.
const maxChannels = 1000

// silence is how long a client of either server may be silent. The load does not read from a
// connection, and so answers no pings, before all of them are open.
const silence = time.Hour

// maxQueue is how many bytes may wait for a client of either server. The largest payloads in flight
// are 1 MiB.
const maxQueue = 16 << 20

type member struct{}

func bennu() http.Handler {
	rules := history.Rules{"bench:rec-*": {Events: []string{"msg"}, Count: keptMessages}}
	return bennuOn(pubsub.NewRecorded(nil, history.NewMemory(history.MemoryConfig{}), rules))
}

func bennuOn(ps *pubsub.PubSub) *socket.Handler {
	join := func(*member, context.Context, *channel.Channel, serializer.Payload) (any, error) { return nil, nil }
	members := channel.Define(join,
		channel.On("pub", func(_ *member, _ context.Context, c *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.NoReply, c.Broadcast("msg", p)
		}),
		channel.On("echo", func(_ *member, _ context.Context, _ *channel.Channel, p serializer.Payload) (push.Reply, error) {
			return push.OK(p), nil
		}),
	)
	return socket.NewHandler(socket.Config{
		JoinRate: -1, MaxChannels: maxChannels, IdleTimeout: silence, MaxQueue: maxQueue, PubSub: ps,
		Channels: channel.Routes{"bench:*": members},
	})
}

func centrifugeHandler() (http.Handler, error) {
	node, err := centrifuge.New(centrifuge.Config{
		LogLevel: centrifuge.LogLevelNone, ClientChannelLimit: maxChannels, ClientQueueMaxSize: maxQueue,
	})
	if err != nil {
		return nil, err
	}
	node.OnConnecting(func(context.Context, centrifuge.ConnectEvent) (centrifuge.ConnectReply, error) {
		return centrifuge.ConnectReply{Credentials: &centrifuge.Credentials{UserID: "u"}}, nil
	})
	node.OnConnect(func(client *centrifuge.Client) {
		recorded := func(name string) bool { return strings.HasPrefix(name, "bench:rec-") }
		client.OnSubscribe(func(e centrifuge.SubscribeEvent, cb centrifuge.SubscribeCallback) {
			cb(centrifuge.SubscribeReply{Options: centrifuge.SubscribeOptions{EnableRecovery: recorded(e.Channel)}}, nil)
		})
		client.OnPublish(func(e centrifuge.PublishEvent, cb centrifuge.PublishCallback) {
			var reply centrifuge.PublishReply
			if recorded(e.Channel) {
				reply.Options = centrifuge.PublishOptions{HistorySize: keptMessages, HistoryTTL: keptFor}
			}
			cb(reply, nil)
		})
		client.OnRPC(func(e centrifuge.RPCEvent, cb centrifuge.RPCCallback) {
			cb(centrifuge.RPCReply{Data: e.Data}, nil)
		})
	})
	if err := node.Run(); err != nil {
		return nil, err
	}
	cfg := centrifuge.WebsocketConfig{UseWriteBufferPool: true, MessageSizeLimit: 1 << 20}
	cfg.PingInterval = silence
	return centrifuge.NewWebsocketHandler(node, cfg), nil
}
