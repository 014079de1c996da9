package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/bits"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"bennu.example/internal/wstest"
)

// sequence precedes a message's number.
var sequence = []byte(`"n":`)

// number returns a message's number, or -1.
func number(message []byte) int {
	_, rest, ok := bytes.Cut(message, sequence)
	if !ok {
		return -1
	}
	n := 0
	for _, c := range rest {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// load is the state of the load process for one scenario.
type load struct {
	d     dialect
	addr  string
	about string // the address of the server's state
	s     scenario
	conns []*wstest.Conn
	begun time.Time

	publishers []*wstest.Conn // of what returning clients missed

	latency histogram
	result  result
}

// runLoad runs a scenario and writes the result to standard output, as JSON.
func runLoad(d dialect, addr, about string, s scenario) error {
	l := &load{d: d, addr: addr, about: about, s: s, begun: time.Now()}
	run := map[string]func() error{
		"fanout": l.fanout, "echo": l.echo, "idle": l.idle, "join": l.joins, "return": l.returns,
		"open": l.opens, "topics": l.topics,
	}[s.Kind]
	if run == nil {
		return fmt.Errorf("unknown scenario %q", s.Kind)
	}
	if err := run(); err != nil {
		return err
	}
	l.result.P50, l.result.P99 = l.latency.quantile(0.5), l.latency.quantile(0.99)
	return json.NewEncoder(os.Stdout).Encode(l.result)
}

func (l *load) state(query string) (s state, err error) {
	resp, err := http.Get("http://" + l.about + "/state" + query)
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// connect opens the clients. Client i joins topic i modulo the number of topics.
func (l *load) connect() error {
	for i := range l.s.Clients {
		c, err := l.d.open(l.addr, strconv.Itoa(i%l.s.Topics), sourceOf(i))
		if err != nil {
			return fmt.Errorf("client %d: %w", i, err)
		}
		l.conns = append(l.conns, c)
	}
	return nil
}

// measure runs f twice. The first, short run warms up; the server's CPU time is measured in the
// second.
func (l *load) measure(f func(d time.Duration) (messages int, err error)) error {
	if _, err := f(l.s.Duration / 5); err != nil {
		return err
	}
	l.latency = histogram{}
	before, err := l.state("")
	if err != nil {
		return err
	}
	begun := time.Now()
	n, err := f(l.s.Duration)
	if err != nil {
		return err
	}
	l.result.Elapsed = time.Since(begun)
	after, err := l.state("")
	l.result.Messages, l.result.CPU = n, after.CPU-before.CPU
	return err
}

func (l *load) body(n int, dst []byte) []byte {
	dst = append(append(dst, '{'), sequence...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	dst = append(dst, `,"pad":"`...)
	for range max(0, l.s.Payload-len(`{"n":123456,"pad":""}`)) {
		dst = append(dst, 'x')
	}
	return append(dst, `"}`...)
}

// room is a topic of a fan-out. Its first client publishes.
type room struct {
	topic     string
	members   int
	pub       *wstest.Conn
	sent      atomic.Int64
	received  atomic.Int64
	at        [64]atomic.Int64 // times of publication of the last messages, by number
	delivered chan struct{}
}

func (l *load) fanout() error {
	if err := l.connect(); err != nil {
		return err
	}
	rooms := make([]*room, l.s.Topics)
	for i := range rooms {
		rooms[i] = &room{topic: strconv.Itoa(i), pub: l.conns[i], delivered: make(chan struct{}, 1)}
	}
	var wrong [2]atomic.Int64 // duplicates, and messages out of order
	failed := make(chan error, 1)
	for i, c := range l.conns {
		r := rooms[i%len(rooms)]
		r.members++
		go func() {
			next := 0
			for {
				frame, err := l.d.read(c)
				if err != nil {
					select {
					case failed <- fmt.Errorf("subscriber: %w", err):
					default:
					}
					return
				}
				l.d.delivered(frame, func(m []byte) {
					n := number(m)
					switch {
					case n < next:
						wrong[0].Add(1)
					case n > next:
						wrong[1].Add(1)
					}
					next = n + 1
					l.latency.add(time.Since(l.begun) - time.Duration(r.at[n%len(r.at)].Load()))
					if r.received.Add(1)%int64(r.members) == 0 {
						select {
						case r.delivered <- struct{}{}:
						default:
						}
					}
				})
			}
		}()
	}
	err := l.measure(func(d time.Duration) (int, error) {
		end := time.Now().Add(d)
		before := int64(0)
		for _, r := range rooms {
			before += r.received.Load()
		}
		var publishers sync.WaitGroup
		for _, r := range rooms {
			publishers.Go(func() { l.publish(r, end, failed) })
		}
		publishers.Wait()
		after := int64(0)
		for _, r := range rooms {
			after += r.received.Load()
		}
		select {
		case err := <-failed:
			return 0, err
		default:
			return int(after - before), nil
		}
	})
	l.result.Duplicates, l.result.Disorder = int(wrong[0].Load()), int(wrong[1].Load())
	for _, r := range rooms {
		l.result.Missing += int(r.sent.Load())*r.members - int(r.received.Load())
	}
	return err
}

// publish keeps the room's window full until the end, and then waits for all deliveries.
func (l *load) publish(r *room, end time.Time, failed chan error) {
	var frame, body []byte
	for {
		sent := r.sent.Load()
		done := r.received.Load() / int64(r.members)
		switch over := time.Now().After(end); {
		case over && done == sent:
			return
		case !over && sent-done < int64(l.s.InFlight):
			body = l.body(int(sent), body[:0])
			frame = l.d.publish(frame[:0], r.topic, body)
			r.at[int(sent)%len(r.at)].Store(int64(time.Since(l.begun)))
			r.sent.Add(1)
			if err := r.pub.Send(frame); err != nil {
				failed <- err
				return
			}
		default:
			select {
			case <-r.delivered:
			case <-time.After(5 * time.Second):
				if time.Now().After(end.Add(5 * time.Second)) {
					return // the missing messages are counted
				}
			}
		}
	}
}

// echo makes each client send messages and wait for each reply.
func (l *load) echo() error {
	return l.each(func() func(c *wstest.Conn, topic string, n int) error {
		var frame, body []byte
		return func(c *wstest.Conn, topic string, n int) error {
			body = l.body(n, body[:0])
			frame = l.d.echo(frame[:0], topic, body)
			if err := c.Send(frame); err != nil {
				return err
			}
			got, err := l.d.read(c)
			if err == nil && number(got) != n {
				err = fmt.Errorf("echo %d: got %s", n, got)
			}
			return err
		}
	})
}

// joins makes each client leave and join its topic repeatedly.
func (l *load) joins() error {
	return l.each(func() func(*wstest.Conn, string, int) error {
		return func(c *wstest.Conn, topic string, _ int) error {
			if err := l.d.exchange(c, l.d.leave(topic), l.d.leaveReplies); err != nil {
				return err
			}
			return l.d.exchange(c, l.d.join(topic), l.d.answers)
		}
	})
}

// opens makes each client connect, join its topic, and close the connection.
func (l *load) opens() error {
	return l.each(func() func(*wstest.Conn, string, int) error {
		return func(_ *wstest.Conn, topic string, _ int) error {
			c, err := l.d.open(l.addr, topic, nil)
			if err != nil {
				return err
			}
			defer reset(c)
			if err := c.Frame(wstest.Fin|wstest.Close, []byte{1000 >> 8, 1000 & 0xff}); err != nil {
				return err
			}
			for {
				first, _, err := c.Next()
				if err != nil || first == wstest.Fin|wstest.Close {
					return err
				}
			}
		}
	})
}

// each makes all clients run a task repeatedly and measures the duration of each run. newTask
// creates the task of a client.
func (l *load) each(newTask func() func(c *wstest.Conn, topic string, n int) error) error {
	if err := l.connect(); err != nil {
		return err
	}
	return l.measure(func(d time.Duration) (int, error) {
		end := time.Now().Add(d)
		var total atomic.Int64
		errs := make(chan error, len(l.conns))
		var clients sync.WaitGroup
		for i, c := range l.conns {
			clients.Go(func() {
				topic, task := strconv.Itoa(i%l.s.Topics), newTask()
				for n := 0; time.Now().Before(end); n++ {
					begun := time.Now()
					if err := task(c, topic, n); err != nil {
						errs <- err
						return
					}
					l.latency.add(time.Since(begun))
					total.Add(1)
				}
			})
		}
		clients.Wait()
		select {
		case err := <-errs:
			return 0, err
		default:
			return int(total.Load()), nil
		}
	})
}

// idleAfter is how long nothing happens before a connection counts as idle.
const idleAfter = time.Second

// idle measures the server's memory with and without clients.
func (l *load) idle() error {
	warm, err := l.d.open(l.addr, "warm", nil)
	if err != nil {
		return err
	}
	defer warm.Close()
	before, err := l.state("?gc")
	if err != nil {
		return err
	}
	if err := l.connect(); err != nil {
		return err
	}
	time.Sleep(idleAfter)
	after, err := l.state("?gc")
	l.result.Bytes = (after.RSS - before.RSS) / l.s.Clients
	l.result.Messages = l.s.Clients
	return err
}

// histogram counts durations in buckets of about 6 %.
type histogram struct{ buckets [64 * 16]atomic.Int64 }

func (h *histogram) add(d time.Duration) {
	n := uint64(max(d, 16))
	e := bits.Len64(n) - 5
	h.buckets[e*16+int(n>>e)-16].Add(1)
}

func (h *histogram) quantile(q float64) time.Duration {
	total := int64(0)
	for i := range h.buckets {
		total += h.buckets[i].Load()
	}
	rest := int64(q * float64(total))
	for i := range h.buckets {
		if rest -= h.buckets[i].Load(); rest < 0 {
			return time.Duration(uint64(16+i%16) << (i / 16))
		}
	}
	return 0
}
