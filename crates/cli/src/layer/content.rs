//! The four calls of containerd's own API that lead to a layer, and the fields of them that are read.
//!
//! Written by hand: the published messages come with a client of all of containerd's services.

use std::path::Path;

use sha2::{Digest as _, Sha256};
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

use super::check;
use crate::cri;
use crate::error::Error;

/// containerd, seen from one of its namespaces.
#[derive(Debug)]
pub(super) struct Containerd {
    client: Grpc<Channel>,
    namespace: MetadataValue<Ascii>,
}

/// `{id = 1}` of a container, `{name = 1}` of an image, `{digest = 1}` of content.
#[derive(Clone, PartialEq, prost::Message)]
struct GetRequest {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerResponse {
    #[prost(message, optional, tag = "1")]
    container: Option<Container>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Container {
    #[prost(string, tag = "3")]
    image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageResponse {
    #[prost(message, optional, tag = "1")]
    image: Option<Image>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Image {
    #[prost(message, optional, tag = "3")]
    target: Option<Descriptor>,
}

/// What an image's name stands for.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Descriptor {
    #[prost(string, tag = "2")]
    pub(super) digest: String,
    #[prost(int64, tag = "3")]
    pub(super) size: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReadRequest {
    #[prost(string, tag = "1")]
    digest: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ReadResponse {
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

// === impl Containerd ===

impl Containerd {
    pub(super) async fn connect(socket: &Path, namespace: String) -> Result<Self, Error> {
        let channel = cri::channel(socket).await?;
        let namespace = namespace
            .parse()
            .map_err(|_| Error::Argument(format!("--namespace {namespace:?}")))?;
        Ok(Self {
            client: Grpc::new(channel),
            namespace,
        })
    }

    /// The name of a container's image, if it has one.
    pub(super) async fn image_of(&mut self, container: &str) -> Result<Option<String>, Error> {
        let path = "/containerd.services.containers.v1.Containers/Get";
        let answer: Option<ContainerResponse> = self
            .get(path, container)
            .await
            .map_err(Error::cri(format!("container {container}")))?;
        let image = answer.and_then(|answer| answer.container?.image.into());
        Ok(image.filter(|image: &String| !image.is_empty()))
    }

    /// What the name of an image stands for, if it is still an image's.
    pub(super) async fn target_of(&mut self, image: &str) -> Result<Option<Descriptor>, Error> {
        let path = "/containerd.services.images.v1.Images/Get";
        let answer: Option<ImageResponse> = self
            .get(path, image)
            .await
            .map_err(Error::cri(format!("image {image}")))?;
        Ok(answer.and_then(|answer| answer.image?.target))
    }

    /// Whether content is there: of an index, a pull brings the manifests of one platform.
    pub(super) async fn has(&mut self, digest: &str) -> Result<bool, Error> {
        let path = "/containerd.services.content.v1.Content/Info";
        let answer: Option<()> = self
            .get(path, digest)
            .await
            .map_err(Error::cri(format!("content {digest}")))?;
        Ok(answer.is_some())
    }

    /// Reads content of `size` bytes, and checks that it is what its digest says.
    pub(super) async fn read(
        &mut self,
        digest: &str,
        size: u64,
        mut keep: impl FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let failed = || Error::cri(format!("content {digest}"));
        let request = self.request(ReadRequest {
            digest: digest.to_owned(),
        });
        self.ready().await.map_err(failed())?;
        let path = PathAndQuery::from_static("/containerd.services.content.v1.Content/Read");
        let codec = ProstCodec::<ReadRequest, ReadResponse>::default();
        let answer = self.client.server_streaming(request, path, codec).await;
        let mut parts = answer.map_err(failed())?.into_inner();
        let (mut hash, mut left) = (Sha256::new(), size);
        while let Some(part) = parts.message().await.map_err(failed())? {
            let length = u64::try_from(part.data.len()).unwrap_or(u64::MAX);
            left = left.checked_sub(length).ok_or_else(|| {
                Error::Missing(format!("content {digest}: more than its {size} bytes"))
            })?;
            hash.update(&part.data);
            keep(&part.data)?;
        }
        check(digest, hash)
    }

    /// Asks for one thing by its name; nothing if it is not there.
    async fn get<T>(&mut self, path: &'static str, name: &str) -> Result<Option<T>, tonic::Status>
    where
        T: prost::Message + Default + 'static,
    {
        let request = self.request(GetRequest {
            name: name.to_owned(),
        });
        self.ready().await?;
        let codec = ProstCodec::<GetRequest, T>::default();
        let path = PathAndQuery::from_static(path);
        match self.client.unary(request, path, codec).await {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) if status.code() == tonic::Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    async fn ready(&mut self) -> Result<(), tonic::Status> {
        let ready = self.client.ready().await;
        ready.map_err(|error| tonic::Status::unavailable(error.to_string()))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace.clone());
        request
    }
}
