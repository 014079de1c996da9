package boltengine_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"bennu.example/engine/boltengine"
	"bennu.example/history"
)

// serve is the program that tests start as a child process. With an address it runs chat. Otherwise
// it appends to the topics a to d from several goroutines, and prints the topic, the position and
// the payload of each record that was appended, or does the same with objects or with the store of
// a client. It ends with its input.
func serve() {
	flags := flag.NewFlagSet("", flag.ExitOnError)
	flags.String("role", "", "")
	path := flags.String("path", "", "")
	noSync := flags.Bool("nosync", false, "")
	writers := flags.Int("writers", 0, "")
	from := flags.Int("from", 0, "")
	addr := flags.String("addr", "", "")
	objects := flags.Bool("objects", false, "")
	client := flags.Bool("client", false, "")
	outbox := flags.String("outbox", "", "")
	_ = flags.Parse(os.Args[1:])
	var err error
	switch {
	case *addr != "":
		err = chat(*addr, *path, *from)
	case *outbox != "":
		err = pushForever(*path, *outbox, *from)
	case *client:
		err = applyClientForever(*path, *writers)
	case *objects:
		err = applyForever(boltengine.Config{Path: *path, NoSync: *noSync}, *writers, *from)
	default:
		err = appendForever(boltengine.Config{Path: *path, NoSync: *noSync}, *writers, *from)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func appendForever(cfg boltengine.Config, writers, from int) error {
	e, err := boltengine.New(cfg)
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- e.History().Run(context.Background(), history.Inbox{}) }()
	for !e.History().Health().Connected {
		runtime.Gosched()
	}
	lines := make(chan string)
	for w := range writers {
		go func() {
			for i := from; ; i++ {
				topic := string(rune('a' + (w+i)%4))
				r, err := e.History().Append(context.Background(), topic, history.Record{
					Event: "e", Payload: number(i*writers + w), ID: fmt.Sprint(w, " ", i),
				}, history.Keep{Count: 1 << 20, Bytes: 1 << 30})
				if err != nil {
					lines <- "error: " + err.Error()
					return
				}
				lines <- fmt.Sprint(topic, " ", r.Position, " ", i*writers+w)
			}
		}()
	}
	return printUntilEnd(e, lines, ran)
}

// printUntilEnd prints "ready" and then the lines. It closes the engine at the end of the input,
// and fails if Run ends before, whose result is in ran.
func printUntilEnd(e *boltengine.Engine, lines <-chan string, ran <-chan error) error {
	end := make(chan struct{})
	go func() {
		defer close(end)
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	}()
	fmt.Fprintln(os.Stdout, "ready")
	for {
		select {
		case line := <-lines:
			fmt.Fprintln(os.Stdout, line)
		case <-end:
			return e.Close()
		case err := <-ran:
			return fmt.Errorf("Run: %w", err)
		}
	}
}

// child is a process that runs serve.
type child struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(t testing.TB, args ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: exec.Command(self, append([]string{"-role", "serve"}, args...)...)}
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil { // which also ends with this process
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	return c
}

// line returns the next line that the process prints. It is empty after the last.
func (c *child) line() string {
	line, _ := c.out.ReadString('\n')
	if !strings.HasSuffix(line, "\n") { // it was killed while it printed
		return ""
	}
	return strings.TrimSuffix(line, "\n")
}

// kill sends SIGKILL. The output of the process can still be read.
func (c *child) kill() { _ = c.cmd.Process.Kill() }

// readAndKill calls read with so many lines, kills the process, and calls read with the lines that
// it printed before.
func (c *child) readAndKill(n int, read func(line string)) {
	for range n {
		read(c.line())
	}
	c.kill()
	for line := c.line(); line != ""; line = c.line() {
		read(line)
	}
	c.stop()
}

// stop kills the process and waits for its end.
func (c *child) stop() {
	c.kill()
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Wait()
	}
}

// A process that appends is killed again and again. Every record whose Append returned is in the
// log afterwards, at its position and in order.
func TestKill(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	const writers = 32
	cfg := config(t)
	acked := map[string]map[history.Position]int{}
	newest := map[string]history.Position{} // by topic
	begin := map[string]history.Position{}
	total := 0
	for round := range rounds {
		c := start(t, "-path", cfg.Path, "-writers", fmt.Sprint(writers), "-from", fmt.Sprint(round<<20))
		if line := c.line(); line != "ready" {
			t.Fatalf("the process began with %q", line)
		}
		read := func(line string) {
			topic, rest, _ := strings.Cut(line, " ")
			text, n, _ := strings.Cut(rest, " ")
			p, err := history.ParsePosition(text)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			var i int
			if _, err := fmt.Sscan(n, &i); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if acked[topic] == nil {
				acked[topic] = map[history.Position]int{}
			}
			acked[topic][p] = i
			if p.Offset() > newest[topic].Offset() {
				newest[topic] = p
			}
			total++
		}
		c.readAndKill(50+rand.IntN(500), read)

		e := open(t, cfg)
		for _, topic := range []string{"a", "b", "c", "d"} {
			b, err := e.History().Before(t.Context(), topic, history.Position{}, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			if begin[topic].IsZero() {
				begin[topic] = b.After
			}
			if b.After != begin[topic] {
				t.Errorf("round %d: %s begins after %v, want %v", round, topic, b.After, begin[topic])
			}
			last := b.After
			next := map[int]int{} // by writer
			found := 0
			for _, r := range b.Records {
				n := numberOf(t, r)
				if want, ok := acked[topic][r.Position]; ok {
					found++
					if want != n {
						t.Errorf("round %d: %v has record %d, want %d", round, r.Position, n, want)
					}
				}
				if r.Prev != last || r.Position.Offset() != last.Offset()+1 {
					t.Errorf("round %d: %v follows %v, and its Prev is %v", round, r.Position, last, r.Prev)
				}
				last = r.Position
				if w := n % writers; n < next[w] {
					t.Errorf("round %d: record %d of writer %d comes after a later one", round, n, w)
				} else {
					next[w] = n + 1
				}
			}
			if found != len(acked[topic]) {
				t.Errorf("round %d: %s has %d of %d records whose append returned", round, topic, found, len(acked[topic]))
			}
			if newest[topic].Offset() > b.Top.Offset() {
				t.Errorf("round %d: the top of %s is %v, before %v", round, topic, b.Top, newest[topic])
			}
		}
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d records in %d processes", total, rounds)
}
