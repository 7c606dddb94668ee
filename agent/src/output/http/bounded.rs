//! A listener that keeps clients from using up the agent's file descriptors.
//!
//! At most so many connections at once, and none that stays silent: a client beyond the
//! first bound waits in the kernel's queue, one beyond the second is closed. Without both,
//! whoever reaches the port could blind the agent, which opens files of `/proc` all the time.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::serve::Listener;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep},
};
use tokio_rustls::TlsAcceptor;

use super::tls::Wire;

/// A listener with bounds.
pub(super) struct Bounded {
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    permits: Arc<Semaphore>,
    silence: Duration,
}

impl Bounded {
    /// At most `connections` at once, each closed after `silence` without a byte.
    pub(super) fn new(
        listener: TcpListener,
        acceptor: Option<TlsAcceptor>,
        connections: usize,
        silence: Duration,
    ) -> Self {
        Self {
            listener,
            acceptor,
            permits: Arc::new(Semaphore::new(connections)),
            silence,
        }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // An error means that the semaphore is closed, which nobody does.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let (stream, addr) = Listener::accept(&mut self.listener).await;
        let connection = Connection {
            stream: Wire::new(stream, self.acceptor.as_ref()),
            silence: self.silence,
            timer: Box::pin(sleep(self.silence)),
            _permit: permit,
        };
        (connection, addr)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that gives its permit back when it is dropped.
pub(super) struct Connection {
    stream: Wire,
    silence: Duration,
    timer: Pin<Box<Sleep>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// Passes `progress` on and restarts the timer, or fails once the timer has run out.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.timer.as_mut().reset(Instant::now() + self.silence);
            return progress;
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.watched(cx, progress)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watched(cx, progress)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
