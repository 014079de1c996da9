package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"

	"bennu.example/channel"
	"bennu.example/history"
	"bennu.example/push"
	"bennu.example/state/mirror"
	"bennu.example/transport"
)

// The exit codes, which docs/command-line.md documents.
const (
	exitOK          = 0
	exitRefused     = 1   // the server answered, and said no
	exitUsage       = 2   // the command line is wrong
	exitConnection  = 3   // there is no connection, or no answer
	exitInterrupted = 130 // Ctrl-C came before the result
)

// exitError is an error with an exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// refused returns an error that exits with exitRefused.
func refused(format string, args ...any) error {
	return &exitError{exitRefused, fmt.Errorf(format, args...)}
}

// usage returns an error that exits with exitUsage.
func usage(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

// errInterrupted is the cause of a context that Ctrl-C has canceled.
var errInterrupted = &exitError{exitInterrupted, errors.New("interrupted")}

// exitCode returns the exit code for the error of a command.
func exitCode(err error) int {
	var coded *exitError
	var reply *push.Error
	var remote *channel.RemoteError
	var conflict *mirror.ConflictError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &reply), errors.As(err, &remote), errors.As(err, &conflict),
		errors.Is(err, history.ErrTrimmed), errors.Is(err, history.ErrNoRule), errors.Is(err, history.ErrPosition):
		return exitRefused
	}
	return exitConnection
}

// connectError explains why there is no connection.
func connectError(url string, err error) error {
	return &exitError{exitConnection, fmt.Errorf("cannot connect to %s: %s", printable(url), reasonOf(err))}
}

// reasonOf returns the cause of a failed attempt to connect in words that say where to look.
func reasonOf(err error) string {
	var refusal *transport.HandshakeError
	var dns *net.DNSError
	switch {
	case errors.As(err, &refusal):
		return handshakeReason(refusal)
	case errors.As(err, &dns):
		return fmt.Sprintf("there is no host %s", printable(dns.Name))
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there (connection refused)"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	return printable(err.Error())
}

func handshakeReason(e *transport.HandshakeError) string {
	text := fmt.Sprintf("the server answered %d %s", e.StatusCode, http.StatusText(e.StatusCode))
	switch e.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		text += ": it refuses the token, the connect params, the origin or the host"
	case http.StatusNotFound, http.StatusOK:
		text += ": there is no socket at this path"
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		text += ": it is busy or shuts down"
	}
	if body := strings.TrimSpace(string(e.Body)); body != "" && len(body) <= 100 && !strings.ContainsAny(body, "<\n") {
		text += " (" + printable(body) + ")"
	}
	return text + "; bennu doctor finds out more"
}

// replyError explains an error of a push or a join, which is what failed.
func replyError(what string, err error) error {
	var reply *push.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &reply):
		return refused("%s: %s", what, replyText(reply))
	case errors.Is(err, push.ErrTimeout):
		return fmt.Errorf("%s: no reply in time (see --timeout and --no-reply)", what)
	case errors.Is(err, push.ErrLost):
		return fmt.Errorf("%s: the connection was lost before the reply; the server may have handled it", what)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// replyText returns the reason of a reply, or all of it if it has none.
func replyText(e *push.Error) string {
	status := ""
	if e.Status != push.StatusError {
		status = fmt.Sprintf("the server replied %q: ", e.Status)
	}
	body := payloadText(e.Payload)
	if reason := e.Reason(); reason != "" && body == payloadText(reasonPayload(reason)) {
		return status + printable(reason)
	}
	return status + body
}
