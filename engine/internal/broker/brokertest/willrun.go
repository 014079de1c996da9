package brokertest

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"bennu.example/channel"
	"bennu.example/internal/willcheck"
	"bennu.example/serializer"
	"bennu.example/socket"
)

// WillCluster says how RunWills gets the store of its nodes.
type WillCluster struct {
	URL     string // for the engine of a node
	Restart func() // kills the server of the store and starts it again; it keeps what it has
	// Faults is the time in which there are faults, without that of Restart. Zero means 10 s.
	Faults time.Duration
}

const (
	willNodes     = 3
	willLasting   = 8 // clients of each kind
	willPages     = 8
	willMaxAfter  = 800 * time.Millisecond
	willFaults    = 10 * time.Second
	willObservers = 2
)

var willTopics = []string{"room:1", "rec:1"}

// willRun is a cluster of processes with clients that set last wills, all of which write histories.
type willRun struct {
	t       testing.TB
	cluster WillCluster
	rec     *willcheck.Recorder
	dir     string
	ctx     context.Context // ends when the clients are to leave

	mu    sync.Mutex
	files []string
	nodes [willNodes]*willNode // nil while there is none
	names int

	clients atomic.Int64
	order   atomic.Uint64
}

// willNode is a process with a node.
type willNode struct {
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	addr  string
}

// RunWills calls runWills with a new cluster, and by night with several, one after the other.
func RunWills(t *testing.T, newCluster func(t *testing.T) WillCluster) {
	seeds := 1
	if os.Getenv("NIGHTLY") == "true" {
		seeds = 10
	}
	for range seeds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { runWills(t, seed, newCluster(t)) })
	}
}

// runWills lets nodes in processes of their own run over a real store, while clients set wills,
// come back, delete their wills, log out and leave, and while the nodes and the store are killed
// and started again. The main function of the test binary must call ServeWills for WillRole. Then
// it checks the histories of all of them.
func runWills(t *testing.T, seed uint64, cluster WillCluster) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	ctx, leave := context.WithCancel(context.Background())
	defer leave()
	r := &willRun{t: t, cluster: cluster, dir: t.TempDir(), ctx: ctx}
	own, err := os.Create(filepath.Join(r.dir, "clients"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Close() }()
	r.rec, r.files = willcheck.NewRecorder(own), []string{own.Name()}
	for i := range r.nodes {
		r.start(i)
	}
	defer func() {
		for i := range r.nodes {
			r.stop(i, false)
		}
	}()
	limits := willcheck.Limits{
		Lease: willTimes.Lease, Poll: 3 * willTimes.Poll / 2, Hold: willTimes.Hold, Slack: 15 * time.Second,
		Recorded: isRecordedTopic,
	}
	for i := range willObservers {
		name := fmt.Sprint("observer ", i)
		limits.Observers = append(limits.Observers, name)
		defer r.observe(name)()
	}
	var living sync.WaitGroup
	for range willLasting {
		own := rand.New(rand.NewPCG(seed, rnd.Uint64()))
		living.Go(func() { r.lasting(own) })
	}
	for range willPages {
		own := rand.New(rand.NewPCG(seed, rnd.Uint64()))
		living.Go(func() { r.pages(own) })
	}
	r.faults(rnd)
	leave()
	living.Wait()
	r.await(limits)
	if err := r.rec.Err(); err != nil {
		t.Error(err)
	}
}

// await waits until all wills have run that must, and checks the histories.
func (r *willRun) await(limits willcheck.Limits) {
	last := time.Now().Add(limits.Lease + willMaxAfter + limits.Hold + limits.Poll + limits.Slack)
	for {
		now := time.Now()
		events, err := willcheck.Read(r.files...)
		if err != nil {
			r.t.Fatal(err)
		}
		// As if the run was over for long, so that everything that is missing counts.
		end := willcheck.Event{Kind: willcheck.Finished, At: now.Add(time.Hour).UnixNano()}
		violations, sum := willcheck.Check(append(events, end), limits)
		if len(violations) == 0 || now.After(last) {
			r.report(violations, sum)
			return
		}
		time.Sleep(100 * time.Millisecond) // polling files of other processes
	}
}

func (r *willRun) report(violations []willcheck.Violation, sum willcheck.Summary) {
	r.t.Logf("%+v", sum)
	if sum.Ran == 0 || sum.Orphaned == 0 || sum.Superseded == 0 || sum.Dropped == 0 || sum.Kills < willNodes {
		r.t.Error("the run has tested too little")
	}
	for i, v := range violations {
		if i == 20 {
			r.t.Errorf("and %d more", len(violations)-i)
			break
		}
		r.t.Error(v)
	}
	if len(violations) == 0 {
		return
	}
	keep, err := os.MkdirTemp("", "wills-*")
	if err == nil {
		err = os.CopyFS(keep, os.DirFS(r.dir))
	}
	r.t.Logf("the histories are in %s, %v", keep, err)
}

// faults kills nodes and the store, until the time is over. Then everything runs.
func (r *willRun) faults(rnd *rand.Rand) {
	end := time.Now().Add(cmp.Or(r.cluster.Faults, willFaults))
	restarts := 0
	for time.Now().Before(end) {
		time.Sleep(100*time.Millisecond + time.Duration(rnd.Int64N(int64(time.Second)))) // a time without faults
		switch i := rnd.IntN(willNodes); {
		case rnd.IntN(5) == 0 && restarts < 2:
			restarts++
			begun := time.Now()
			r.rec.Add(willcheck.Event{Kind: willcheck.Broken})
			r.cluster.Restart()
			r.rec.Add(willcheck.Event{Kind: willcheck.Mended})
			end = end.Add(time.Since(begun))
		default:
			r.stop(i, rnd.IntN(4) == 0)
			time.Sleep(time.Duration(rnd.Int64N(int64(500 * time.Millisecond)))) // a time without this node
			r.start(i)
		}
	}
}

// start starts a node in a slot.
func (r *willRun) start(slot int) {
	r.t.Helper()
	r.mu.Lock()
	r.names++
	n := &willNode{name: fmt.Sprint("node", r.names)}
	events := filepath.Join(r.dir, n.name)
	r.files = append(r.files, events)
	r.mu.Unlock()
	file, err := os.Create(events) // it is read even if the node did not write
	if err != nil {
		r.t.Fatal(err)
	}
	_ = file.Close()
	n.cmd = exec.Command(os.Args[0], "-role", WillRole, "-name", n.name, "-store", r.cluster.URL, "-events", events)
	n.cmd.Stderr = os.Stderr
	stdin, err := n.cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	n.stdin = stdin
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		r.t.Fatalf("%s did not start: %v", n.name, err)
	}
	n.addr = strings.TrimSpace(line)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[slot] = n
}

// stop kills the node of a slot, as kill -9 does, or shuts it down.
func (r *willRun) stop(slot int, orderly bool) {
	r.mu.Lock()
	n := r.nodes[slot]
	r.nodes[slot] = nil
	r.mu.Unlock()
	if n == nil {
		return
	}
	r.rec.Add(willcheck.Event{Kind: willcheck.Killed, Node: n.name})
	if !orderly {
		_ = n.cmd.Process.Kill()
	}
	_ = n.stdin.Close()
	if err := n.cmd.Wait(); err != nil && orderly {
		r.t.Errorf("%s: %v", n.name, err)
	}
}

// dial connects to any of the nodes.
func (r *willRun) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	r.mu.Lock()
	addr := "127.0.0.1:1" // refused
	if n := r.nodes[rand.IntN(willNodes)]; n != nil {
		addr = n.addr
	}
	r.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// config returns the configuration of a client.
func (r *willRun) config(clientID, token string) *socket.ClientConfig {
	nop := zerolog.Nop()
	return &socket.ClientConfig{
		ClientID: clientID, AuthToken: token, Logger: &nop, Timeout: 5 * time.Second,
		HTTPClient:     r.httpClient(r.dial),
		ReconnectDelay: func(socket.Retry) time.Duration { return 20 * time.Millisecond },
		RejoinAfter:    func(int) time.Duration { return 20 * time.Millisecond },
	}
}

func (r *willRun) httpClient(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

func (r *willRun) newClientID(kind string) string {
	return fmt.Sprintf("%s-client-%08d", kind, r.clients.Add(1))
}

// observe receives what is broadcast until stop is called.
func (r *willRun) observe(name string) (stop func()) {
	r.t.Helper()
	c := socket.NewClient("ws://node", r.config("", ""))
	for _, topic := range willTopics {
		ch := c.Channel(topic, nil)
		if isRecordedTopic(topic) {
			ch.Resume(channel.ResumeConfig{})
		}
		ch.On(willEvent, func(p serializer.Payload) {
			var in willReply
			if err := p.Decode(&in); err != nil {
				r.t.Errorf("%s: %v", name, err)
			}
			r.rec.Add(willcheck.Event{Kind: willcheck.Received, By: name, Topic: topic, Mark: in.Mark})
		})
		ch.Join()
		c.Connect()
		WaitUntil(r.t, "observed", func() bool { s, _ := ch.State(); return s == channel.StateJoined })
	}
	return func() { _ = c.Close(context.Background()) }
}
