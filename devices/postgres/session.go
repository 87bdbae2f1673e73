package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/devices"
	"millrace/devices/postgres/pgerr"
)

const (
	sessionByHash = `select hash, user_id as "user", csrf, created_at, expires, ip, agent from session where hash = @hash and expires > now()`
	insertSession = `insert into session (hash, user_id, csrf, created_at, expires, ip, agent)
		values (@hash, @user, @csrf, @created, @expires, @ip, @agent)`
	touchLogin       = `update site_user set last_login = @at where id = @id`
	deleteSession    = `delete from session where hash = @hash`
	deleteSessionsOf = `delete from session where user_id = @user and hash is distinct from @keep::bytea`
	deleteExpired    = `delete from session where expires < now()`
)

// CreateSession signs a user in. It also clears away sessions that have expired.
func (s *Store) CreateSession(ctx context.Context, by devices.Actor, one devices.Session) error {
	err := s.mutate(ctx, by, func(m *mutation) error {
		if _, err := m.Exec(ctx, deleteExpired); err != nil {
			return err
		}
		if _, err := m.Exec(ctx, insertSession, pgx.StrictNamedArgs{"hash": one.Hash, "user": one.User, "csrf": one.CSRF, "created": one.CreatedAt,
			"expires": one.Expires, "ip": one.IP, "agent": one.Agent}); err != nil {
			return err
		}
		m.audit("session.create", one.User, nil)
		return exec(ctx, m, touchLogin, pgx.StrictNamedArgs{"id": one.User, "at": time.Now()})
	})
	if err != nil {
		return fmt.Errorf("create session: %w", pgerr.Domain(err))
	}
	return nil
}

// Session returns one that has not expired.
func (s *Store) Session(ctx context.Context, hash []byte) (devices.Session, error) {
	found, err := one[devices.Session](ctx, s.pool, sessionByHash, pgx.StrictNamedArgs{"hash": hash})
	if err != nil {
		return found, fmt.Errorf("session: %w", err)
	}
	return found, nil
}

// DeleteSession signs one browser out; ErrNotFound when it was.
func (s *Store) DeleteSession(ctx context.Context, hash []byte) error {
	tag, err := s.pool.Exec(ctx, deleteSession, pgx.StrictNamedArgs{"hash": hash})
	if err == nil && tag.RowsAffected() == 0 {
		err = devices.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("delete session: %w", pgerr.Domain(err))
	}
	return nil
}
