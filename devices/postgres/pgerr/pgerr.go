// Package pgerr tells what an error of PostgreSQL means, for all who keep something in it.
package pgerr

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace/devices"
)

// Domain turns errors of the driver into those of the domain where there is one.
func Domain(err error) error {
	if err == nil {
		return nil
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pgErr.Code == "23505": // unique_violation
			return fmt.Errorf("%w (%s)", devices.ErrExists, pgErr.ConstraintName)
		case pgErr.Code == "23503": // foreign_key_violation
			return fmt.Errorf("%w (%s)", devices.ErrNotFound, pgErr.ConstraintName)
		case pgErr.Code == "22021", pgErr.Code == "22P05": // character_not_in_repertoire, untranslatable_character
			return fmt.Errorf("%w: some text holds a NUL or bytes that are no UTF-8", devices.ErrInvalid)
		case pgErr.Code[:2] == "08", pgErr.Code[:2] == "53", pgErr.Code[:2] == "57": // connection, resources, operator intervention
			return fmt.Errorf("%w: %w", devices.ErrUnavailable, err)
		}
		return err
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return devices.ErrNotFound
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	_, network := errors.AsType[net.Error](err) // also context.DeadlineExceeded
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	if network || connecting || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err) {
		return fmt.Errorf("%w: %w", devices.ErrUnavailable, err)
	}
	return err
}

// IsData reports whether PostgreSQL refuses the data, not us: class 22 data exception, 23 integrity, 54 limits.
func IsData(err error) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (strings.HasPrefix(pgErr.Code, "22") || strings.HasPrefix(pgErr.Code, "23") || strings.HasPrefix(pgErr.Code, "54"))
}

// Text makes any string one that PostgreSQL takes as text.
func Text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
}
