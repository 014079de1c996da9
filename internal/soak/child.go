package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// child is a server in a child process. It ends when this process ends.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   *bufio.Reader
	addr  string
}

func startChild(addr string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, "-role", "server", "-addr", addr)
	cmd.Stderr = os.Stderr
	in, inErr := cmd.StdinPipe()
	out, outErr := cmd.StdoutPipe()
	if err := errors.Join(inErr, outErr); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, stdin: in, out: bufio.NewReader(out)}
	line, err := c.out.ReadString('\n')
	c.addr = strings.TrimSpace(line)
	if err != nil {
		c.kill()
		return nil, fmt.Errorf("server: %w", err)
	}
	return c, nil
}

// drain shuts the server down and returns its last state.
func (c *child) drain() (last state, err error) {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return last, fmt.Errorf("server: %w", err)
	}
	late := time.AfterFunc(2*drainTime, func() { _ = c.cmd.Process.Kill() })
	defer late.Stop()
	defer c.stdin.Close()
	decodeErr := json.NewDecoder(c.out).Decode(&last)
	if err := errors.Join(c.cmd.Wait(), decodeErr); err != nil {
		return last, fmt.Errorf("the server's shutdown failed: %w", err)
	}
	return last, nil
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it may have ended already
	_ = c.cmd.Wait()
}

func (c *child) state() (s state, err error) {
	body, err := c.get("/state")
	if err == nil {
		err = json.Unmarshal(body, &s)
	}
	return s, err
}

func (c *child) disconnect(name string) error {
	_, err := c.get("/disconnect?name=" + url.QueryEscape(name))
	return err
}

func (c *child) get(path string) ([]byte, error) {
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + c.addr + path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("server: %s: %s", path, resp.Status)
	}
	return body, err
}
