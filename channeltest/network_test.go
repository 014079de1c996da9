package channeltest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// dialPair returns both ends of a connection.
func dialPair(t *testing.T, n *Network) (near, far net.Conn) {
	t.Helper()
	got := make(chan net.Conn, 1)
	go func() {
		c, err := n.to.Accept()
		if err != nil {
			t.Error(err)
		}
		got <- c
	}()
	near, err := n.DialContext(t.Context(), "tcp", "anywhere:1")
	if err != nil {
		t.Fatal(err)
	}
	return near, <-got
}

// bubble runs a test with a network of a client.
func bubble(t *testing.T, f func(t *testing.T, n *Network)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newNetwork(newListener()).part()) })
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, c net.Conn, text string) {
	t.Helper()
	p := make([]byte, len(text))
	if _, err := io.ReadFull(c, p); err != nil || string(p) != text {
		t.Fatalf("read %q, %v, want %q", p, err, text)
	}
}

func wantErr(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, want) {
		t.Fatalf("read %d bytes, %v, want the error %v", n, err, want)
	}
}

func TestConn(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *Network) {
		a, b := dialPair(t, n)
		if a.LocalAddr() != b.RemoteAddr() || a.RemoteAddr() != b.LocalAddr() ||
			a.LocalAddr().String() == a.RemoteAddr().String() {
			t.Errorf("addresses %v %v and %v %v", a.LocalAddr(), a.RemoteAddr(), b.LocalAddr(), b.RemoteAddr())
		}
		write(t, a, "hello")
		write(t, a, " world")
		want(t, b, "hello wor")
		write(t, b, "yes")
		want(t, a, "yes")

		// The other end reads what was written before the end.
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		want(t, b, "ld")
		wantErr(t, b, io.EOF)
		wantErr(t, a, net.ErrClosed)
		if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after Close: %v", err)
		}
		if _, err := b.Write([]byte("x")); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write to a closed end: %v", err)
		}
	})
}

func TestConnDeadlines(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *Network) {
		a, b := dialPair(t, n)
		begun := time.Now()
		if err := a.SetDeadline(begun.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		wantErr(t, a, os.ErrDeadlineExceeded)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("the read returned after %v", took)
		}
		var e net.Error
		_, err := a.Write([]byte("x"))
		if !errors.As(err, &e) || !e.Timeout() {
			t.Errorf("write: %v", err)
		}
		// A new deadline wakes up a reader.
		if err := b.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { _ = b.SetReadDeadline(time.Unix(1, 0)) })
		begun = time.Now()
		wantErr(t, b, os.ErrDeadlineExceeded)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("the read returned after %v", took)
		}
		if err := a.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := b.SetDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		write(t, a, "x")
		want(t, b, "x")
	})
}

func TestConnBuffersAreBounded(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *Network) {
		a, b := dialPair(t, n)
		data := bytes.Repeat([]byte("0123456789"), 100_000)
		written := make(chan error, 1)
		go func() {
			_, err := a.Write(data)
			written <- errors.Join(err, a.Close())
		}()
		synctest.Wait()
		select {
		case err := <-written:
			t.Fatalf("the write did not wait: %v", err)
		default:
		}
		if size := b.(*conn).in.size; size != maxInFlight {
			t.Errorf("%d bytes are in flight", size)
		}
		got, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
	})
}

func TestNetworkFaults(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *Network) {
		a, b := dialPair(t, n)
		n.parent.Delay(time.Second)
		begun := time.Now()
		write(t, a, "one")
		n.parent.Delay(time.Millisecond)
		write(t, a, "two") // must not overtake
		want(t, b, "onetwo")
		if took := time.Since(begun); took != time.Second {
			t.Errorf("arrived after %v", took)
		}
		n.parent.Restore()

		n.Drop()
		write(t, a, "three")
		if err := b.SetReadDeadline(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		wantErr(t, b, os.ErrDeadlineExceeded)
		if err := b.SetReadDeadline(time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil { // is not noticed, either
			t.Fatal(err)
		}
		write(t, b, "into the void")
		n.Restore()
		want(t, b, "three")
		wantErr(t, b, io.EOF)

		a, b = dialPair(t, n)
		write(t, a, "lost")
		n.Cut()
		wantErr(t, b, syscall.ECONNRESET)
		wantErr(t, a, syscall.ECONNRESET)
		if _, err := a.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write: %v", err)
		}
	})
}

func TestNetworkDial(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *Network) {
		for _, refusing := range []*Network{n, n.parent} {
			refusing.Refuse()
			if _, err := n.DialContext(t.Context(), "tcp", "x"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("refused: %v", err)
			}
			refusing.Restore()
		}
		n.Delay(time.Second)
		begun := time.Now()
		dialPair(t, n)
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("the dial took %v", took)
		}
		n.Drop()
		n.Delay(0)
		begun = time.Now()
		time.AfterFunc(time.Minute, n.Restore)
		dialPair(t, n)
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("the dial took %v", took)
		}
		n.Drop()
		time.AfterFunc(time.Minute, func() { _ = n.to.Close() })
		_, err := n.DialContext(t.Context(), "tcp", "x")
		if !errors.Is(err, syscall.ECONNREFUSED) || !strings.Contains(err.Error(), "192.0.2.1:80") {
			t.Errorf("the listener is closed: %v", err)
		}
	})
}

// TestNetworkForgetsConnections checks that connections that are over are not kept.
func TestNetworkForgetsConnections(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T, n *Network) {
		for range 100 {
			a, b := dialPair(t, n)
			if err := errors.Join(a.Close(), b.Close()); err != nil {
				t.Fatal(err)
			}
		}
		if len(n.pipes) > 1 {
			t.Errorf("%d connections are kept", len(n.pipes))
		}
	})
}
